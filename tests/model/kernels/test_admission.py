"""Which kernels are let in: those that agree with their twin and are faster, and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import mlx.core as mx
import pytest

from model.kernel_choice import REGIONS, parse_choice
from model.kernels import Kernels
from model.kernels.admission import (
    NO_KERNELS,
    ROUNDS,
    WON,
    Admission,
    Row,
    summary,
    without_kernels,
)
from model.kernels.candidates import Candidate, candidates, other_twins
from model.kernels.metal import UnsupportedError
from model.kernels.recording import record
from tests.model.kernels import examples
from tests.model.kernels.examples import MXFP8, DeltaSizes, Draw, ExpertSizes, HeadSizes

PLAIN = Kernels.plain()


def step(kernels: Kernels, rows: int = 2, dtype: mx.Dtype = mx.bfloat16) -> None:
    """A step of a network of two layers: every region, and the norm twice."""
    draw, heads = Draw(dtype), HeadSizes(4, 2, 16)
    for _ in range(2):
        mx.eval(kernels.add_rms_norm(**examples.residual_norm(draw, rows, 48)))
    mx.eval(kernels.router_top_k(draw.normal(rows, 9), 3, shared=True))
    mx.eval(kernels.delta_step(**examples.delta_step(draw, rows, DeltaSizes(1, 2, 8, 8))))
    mx.eval(kernels.qk_norm_rope(**examples.qk_norm_rope(draw, rows, heads, 8)))
    attention = examples.decode_attention(draw, rows, heads, 8, 8, 3)
    mx.eval(kernels.decode_attention(**attention))
    mx.eval(kernels.qk_norm_rope_several(**examples.qk_norm_rope_several(draw, rows, 2, heads, 8)))
    deltas = examples.delta_step_several(draw, rows, 2, 2, DeltaSizes(1, 2, 8, 8))
    mx.eval(kernels.delta_step_several(**deltas))
    attention = examples.decode_attention_several(draw, rows, 2, heads, 8, 8)
    mx.eval(kernels.decode_attention_several(**attention))
    experts = examples.expert_down(draw, rows, ExpertSizes(4, 2, 64, 24), MXFP8)
    mx.eval(kernels.expert_down(**experts))
    mx.eval(kernels.vocabulary_top_k(**examples.vocabulary_top_k(Draw(mx.float32), rows, 300, 5)))


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*args: Any, **kwargs: Any) -> Any:
            self.now += seconds
            return function(*args, **kwargs)

        return slow


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """On which every twin takes 10 us."""
    clock = Clock()
    twins = all_taking(clock, 10e-6)
    monkeypatch.setattr(Kernels, "plain", staticmethod(lambda: twins))
    return clock


def all_taking(clock: Clock, seconds: float) -> Kernels:
    """Right results in that time."""
    return Kernels(**{name: clock.taking(seconds, getattr(PLAIN, name)) for name in REGIONS})


def good_ones(clock: Clock, **others: Callable[..., Any]) -> dict[str, list[Candidate]]:
    """A kernel of 4 us for every region, but for those named."""
    kernels = {name: getattr(all_taking(clock, 4e-6), name) for name in REGIONS} | others
    return {name: [Candidate("", kernel)] for name, kernel in kernels.items()}


def tried(
    clock: Clock, name: str, kernel: Callable[..., Any], choice: str = "auto"
) -> tuple[Row, bool]:
    """The row of one region whose kernel is `kernel`; whether the network was given it."""
    candidates = good_ones(clock, **{name: kernel})
    admission = Admission([step], [], clock=clock, compiled=False)
    kernels, rows = admission.admit(candidates, parse_choice(choice))
    assert [row.name for row in rows] == list(REGIONS)
    (row,) = (row for row in rows if row.name == name)
    others = {row.name: row for row in rows if row.name != name}
    if choice == "auto":
        assert all(row.admitted for row in others.values()), others
    return row, getattr(kernels, name) is not getattr(Kernels.plain(), name)


def test_the_regions_are_the_fields_of_kernels() -> None:
    assert tuple(field.name for field in fields(Kernels)) == REGIONS


@pytest.mark.parametrize("name", REGIONS)
def test_a_good_one_is_admitted(clock: Clock, name: str) -> None:
    row, given = tried(clock, name, clock.taking(4e-6, getattr(PLAIN, name)))
    assert row.admitted
    assert given
    assert row.reason == "agrees, faster"
    assert row.error is not None
    assert row.error < 2**-6
    assert row.twin_us == pytest.approx(10)
    assert row.kernel_us == pytest.approx(4)


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("choice", ["auto", "named"])
def test_a_wrong_one_is_refused(clock: Clock, name: str, choice: str) -> None:
    def wrong(*args: Any, **kwargs: Any) -> Any:
        results = getattr(PLAIN, name)(*args, **kwargs)
        if isinstance(results, mx.array):
            return results * 1.05
        return (*results[:-1], results[-1] * 1.05)

    row, given = tried(clock, name, wrong, name if choice == "named" else "auto")
    assert not row.admitted
    assert not given
    assert row.reason.startswith("differs by")
    assert row.error == pytest.approx(0.05, rel=0.2)


@pytest.mark.parametrize(
    "damage",
    [
        lambda experts, weights: (mx.where(experts == 0, 1, experts).astype(mx.uint32), weights),
        lambda experts, weights: (experts.astype(mx.int32), weights),
        lambda experts, weights: (experts, weights[:, :-1]),
        lambda experts, weights: (experts, weights * mx.nan),
    ],
)
def test_other_experts_types_shapes_or_nan_are_wrong(
    clock: Clock, damage: Callable[..., Any]
) -> None:
    def wrong(*args: Any, **kwargs: Any) -> Any:
        return damage(*PLAIN.router_top_k(*args, **kwargs))

    row, given = tried(clock, "router_top_k", wrong)
    assert not row.admitted
    assert not given
    assert row.reason.startswith("differs by")


def test_one_that_is_wrong_with_several_rows_only_is_refused(clock: Clock) -> None:
    def wrong(x: mx.array, *args: Any, **kwargs: Any) -> Any:
        total, normed = PLAIN.add_rms_norm(x, *args, **kwargs)
        return total, normed if x.shape[0] < 3 else normed[::-1]

    candidates = good_ones(clock, add_rms_norm=wrong)
    admission = Admission(
        [step], [lambda kernels: step(kernels, rows=3)], clock=clock, compiled=False
    )
    _, rows = admission.admit(candidates, "auto")
    assert [row.name for row in rows if not row.admitted] == ["add_rms_norm"]


def test_a_slower_one_is_refused_unless_asked_for_by_name(clock: Clock) -> None:
    slower = clock.taking(11e-6, PLAIN.delta_step)
    row, given = tried(clock, "delta_step", slower)
    assert (row.admitted, given, row.reason) == (False, False, "agrees, not faster")
    assert row.kernel_us == pytest.approx(11)
    row, given = tried(clock, "delta_step", slower, "delta_step")
    assert (row.admitted, given) == (True, True)
    assert "though not faster" in row.reason


def test_a_kernel_must_win_nearly_every_round(clock: Clock) -> None:
    """Its median may be lower by chance."""
    rounds = 0

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        nonlocal rounds
        rounds += 1
        clock.now += 8e-6 if rounds % 3 else 12e-6
        return PLAIN.router_top_k(*args, **kwargs)

    row, _ = tried(clock, "router_top_k", sometimes)
    assert ROUNDS - ROUNDS // 3 < WON
    assert not row.admitted
    assert row.kernel_us == pytest.approx(8)


def test_one_that_is_slower_in_the_second_step_is_refused(clock: Clock) -> None:
    def by_rows(q: mx.array, *args: Any, **kwargs: Any) -> Any:
        clock.now += 4e-6 if q.shape[0] == 2 else 30e-6
        return PLAIN.decode_attention(q, *args, **kwargs)

    def attention(q: mx.array | None = None, **named: Any) -> Any:
        assert q is not None
        return by_rows(q, **named)

    candidates = good_ones(clock, decode_attention=attention)
    longer: Callable[[Kernels], None] = lambda kernels: step(kernels, rows=1)  # noqa: E731
    admission = Admission([step, longer], [], clock=clock, compiled=False)
    _, rows = admission.admit(candidates, "auto")
    (row,) = (row for row in rows if not row.admitted)
    assert (row.name, row.reason) == ("decode_attention", "agrees, not faster")
    assert row.kernel_us == pytest.approx(30)


@pytest.mark.parametrize("error", [RuntimeError, ValueError, TypeError, UnsupportedError])
@pytest.mark.parametrize("choice", ["auto", "named"])
def test_one_that_raises_is_refused(clock: Clock, error: type[Exception], choice: str) -> None:
    def raising(*args: Any, **kwargs: Any) -> Any:
        raise error("no such function\nsecond line")

    name = "expert_down"
    row, given = tried(clock, name, raising, name if choice == "named" else "auto")
    assert not row.admitted
    assert not given
    assert row.reason == f"raised {error.__name__}: no such function"


def test_one_that_raises_when_it_is_evaluated_or_later_is_refused(clock: Clock) -> None:
    calls = 0

    def later(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise RuntimeError("out of threadgroup memory")
        return PLAIN.qk_norm_rope(*args, **kwargs)

    row, given = tried(clock, "qk_norm_rope", later)
    assert not row.admitted
    assert not given


def test_real_kernels_raise_without_metal_and_are_refused() -> None:
    if mx.metal.is_available():
        pytest.skip("there is Metal")
    kernels, rows = Admission([step], [], compiled=False).admit(candidates(), "auto")
    assert not any(row.admitted for row in rows)
    assert all("Metal" in row.reason for row in rows)
    assert kernels == Kernels.plain()


def test_only_named_ones_are_tried(clock: Clock) -> None:
    admission = Admission([step], [], clock=clock, compiled=False)
    _, rows = admission.admit(good_ones(clock), ("router_top_k", "delta_step"))
    assert [row.name for row in rows if row.admitted] == ["router_top_k", "delta_step"]
    assert {row.reason for row in rows if not row.admitted} == {"turned off"}


def test_a_region_that_is_never_called(clock: Clock) -> None:
    def attention_only(kernels: Kernels) -> None:
        args = examples.decode_attention(Draw(mx.float32), 1, HeadSizes(2, 1, 8), 0, 4, 2)
        mx.eval(kernels.decode_attention(**args))

    admission = Admission([attention_only], [], clock=clock, compiled=False)
    _, rows = admission.admit(good_ones(clock), "auto")
    reasons = {row.name: row.reason for row in rows}
    assert reasons["delta_step"] == "this network does not use it"
    assert reasons["decode_attention"] == "agrees, faster"


def test_an_admitted_kernel_leaves_to_its_twin_what_it_does_not_take(clock: Clock) -> None:
    def up_to_two_rows(x: mx.array, *args: Any, **kwargs: Any) -> Any:
        if x.shape[0] > 2:
            raise UnsupportedError("too many")
        clock.now += 4e-6
        return PLAIN.add_rms_norm(x, *args, **kwargs)

    candidates = good_ones(clock, add_rms_norm=up_to_two_rows)
    admission = Admission([step], [], clock=clock, compiled=False)
    kernels, rows = admission.admit(candidates, "auto")
    assert all(row.admitted for row in rows)
    args = examples.residual_norm(Draw(mx.float32), 5, 48)
    assert mx.array_equal(kernels.add_rms_norm(**args)[1], PLAIN.add_rms_norm(**args)[1])


def test_the_fastest_size_is_taken(clock: Clock) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("Thread group size (1024) is greater than the maximum allowed")

    sizes = good_ones(clock)
    right = PLAIN.delta_step
    sizes["delta_step"] = [
        Candidate("a", broken),
        Candidate("b", clock.taking(7e-6, right)),
        Candidate("c", clock.taking(5e-6, right)),
        Candidate("d", clock.taking(6e-6, right)),
        Candidate("e", lambda *args, **kwargs: (x * 2 for x in right(*args, **kwargs))),
    ]
    admission = Admission([step], [], clock=clock, compiled=False)
    kernels, rows = admission.admit(sizes, "auto")
    (row,) = (row for row in rows if row.name == "delta_step")
    assert (row.admitted, row.size) == (True, "c")
    assert row.kernel_us == pytest.approx(5)
    before = clock.now
    kernels.delta_step(**examples.delta_step(Draw(mx.float32), 1, DeltaSizes(1, 2, 8, 8)))
    assert clock.now - before == pytest.approx(5e-6)

    sizes["delta_step"] = [sizes["delta_step"][0], Candidate("f", clock.taking(12e-6, right))]
    _, rows = admission.admit(sizes, "auto")
    (row,) = (row for row in rows if row.name == "delta_step")
    assert (row.admitted, row.size, row.reason) == (False, "f", "agrees, not faster")

    sizes["delta_step"] = sizes["delta_step"][:1]
    _, rows = admission.admit(sizes, "auto")
    (row,) = (row for row in rows if row.name == "delta_step")
    assert row.reason.startswith("raised ValueError: Thread group size")


def with_mlxs_update(
    clock: Clock, seconds: float, kernel: Callable[..., Any], choice: str = "auto"
) -> tuple[Row, Kernels]:
    """The row of delta_step where mlx's own update, the real one, takes that time in its twin."""
    (form,) = other_twins()["delta_step"]
    others = {"delta_step": [Candidate(form.size, clock.taking(seconds, form.kernel))]}
    admission = Admission([step], [], clock=clock, compiled=False)
    sizes = good_ones(clock, delta_step=kernel)
    kernels, rows = admission.admit(sizes, parse_choice(choice), others)
    (row,) = (row for row in rows if row.name == "delta_step")
    return row, kernels


def seconds_of_delta_step(clock: Clock, kernels: Kernels) -> float:
    before = clock.now
    kernels.delta_step(**examples.delta_step(Draw(mx.float32), 1, DeltaSizes(1, 2, 8, 8)))
    return clock.now - before


def broken(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("no function of that name")


@pytest.mark.parametrize("choice", ["auto", "delta_step", "router_top_k"])
def test_without_the_kernel_the_twin_uses_mlxs_own_update(clock: Clock, choice: str) -> None:
    row, kernels = with_mlxs_update(clock, 6e-6, broken, choice)
    assert not row.admitted
    assert row.twin == "mx.fast.gated_delta_update"
    assert seconds_of_delta_step(clock, kernels) == pytest.approx(6e-6)


def test_a_kernel_has_to_be_faster_than_the_twin_that_would_run(clock: Clock) -> None:
    row, kernels = with_mlxs_update(clock, 6e-6, clock.taking(8e-6, PLAIN.delta_step))
    assert (row.admitted, row.reason) == (False, "agrees, not faster")
    assert (row.twin_us, row.kernel_us) == (pytest.approx(6), pytest.approx(8))
    row, kernels = with_mlxs_update(clock, 6e-6, clock.taking(4e-6, PLAIN.delta_step))
    assert row.admitted
    assert seconds_of_delta_step(clock, kernels) == pytest.approx(4e-6)


def test_mlxs_update_has_to_agree_and_be_faster_than_plain_operations(clock: Clock) -> None:
    row, kernels = with_mlxs_update(clock, 11e-6, broken)
    assert (row.admitted, row.twin) == (False, "")
    assert seconds_of_delta_step(clock, kernels) == pytest.approx(10e-6)

    def wrong(*args: Any, **kwargs: Any) -> Any:
        out, *states = PLAIN.delta_step(*args, **kwargs)
        return out * 1.1, *states

    others = {"delta_step": [Candidate("wrong", clock.taking(1e-6, wrong))]}
    admission = Admission([step], [], clock=clock, compiled=False)
    kernels, rows = admission.admit({}, "auto", others)
    assert kernels.delta_step is Kernels.plain().delta_step
    assert {row.reason for row in rows} == {NO_KERNELS}


def test_every_region_has_candidates() -> None:
    assert tuple(candidates()) == REGIONS
    assert all(candidates().values())


def test_recorded_calls_can_be_made_again() -> None:
    seen = record(step)
    assert {name: len(calls) for name, calls in seen.items()} == {
        name: 2 if name == "add_rms_norm" else 1 for name in REGIONS
    }
    call = seen["router_top_k"][0]
    first, again = call.of(PLAIN.router_top_k), call.of(PLAIN.router_top_k)
    assert call.kwargs == {"shared": True}
    assert all(mx.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_device_without_kernels_says_so() -> None:
    assert [row.name for row in without_kernels("auto")] == list(REGIONS)
    assert {row.reason for row in without_kernels("auto")} == {NO_KERNELS}
    assert {row.reason for row in without_kernels("off")} == {"turned off"}


def test_a_line_for_the_log() -> None:
    assert summary(without_kernels("auto")) == NO_KERNELS
    rows = (Row("a", True, "agrees, faster"), Row("b", False, "raised X"), Row("c", True, ""))
    assert summary(rows) == "admitted a, c; not admitted b (raised X)"
    assert summary(rows[:1]) == "admitted a; not admitted none"


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("auto", "auto"),
        ("off", "off"),
        ("delta_step", ("delta_step",)),
        ("expert_down, router_top_k,expert_down", ("expert_down", "router_top_k")),
    ],
)
def test_choices(text: str, choice: Any) -> None:
    assert parse_choice(text) == choice


@pytest.mark.parametrize("text", ["", ",", "on", "delta_step,auto", "delta-step"])
def test_choices_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="must be auto, off, or of add_rms_norm"):
        parse_choice(text)
