"""The proof a Metal kernel gives before it runs: on this device, with this network's weights.

Steps of the network are run once through recording twins. A kernel is then called with the same
arguments: its results have to be those of the twin computed in float32, to within the rounding of
the activation type, and, where the user has not asked for it by name, it has to be faster than the
compiled twin. A kernel that raises, at any point, is not admitted. Twins that a function of mlx
does a part of prove themselves in the same way, against the plain ones, and come first: a kernel
has to be faster than the twin that would run without it. Everything measured goes into
the table that `mxserve doctor` prints.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from types import MappingProxyType
from typing import Any

import mlx.core as mx

from model.kernel_choice import REGIONS, KernelChoice
from model.kernels import Kernels
from model.kernels.candidates import Candidate, Candidates, or_twin
from model.kernels.recording import Call, Step, record

# Largest difference of an output, as a part of its largest value: a few roundings of the type.
TOLERANCE = {mx.float32: 1e-4, mx.float16: 2e-3, mx.bfloat16: 2**-6}
COMPARED = 4  # calls of each step that are compared: first, last and between
ROUNDS = 9
WON = 7  # rounds of ROUNDS in which a kernel has to be faster: less may be chance
NO_KERNELS = "twin: no custom kernels on this device"
NONE: Candidates = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Row:
    """What was found about one kernel. error: largest difference, as a part of the output's largest
    value; times are medians per call, in microseconds; None is what was not measured. size: which
    of the kernel's sizes that was, empty where there is only one; twin: which function of mlx its
    twin uses, empty where that is plain operations."""

    name: str
    admitted: bool
    reason: str
    size: str = ""
    error: float | None = None
    twin_us: float | None = None
    kernel_us: float | None = None
    twin: str = ""


class Admission:
    """Tries kernels on the calls that steps of a network make.

    timed: one step each that the kernel must not slow down, the first the most important;
    compared: further steps. clock: seconds. compiled: whether both forms are timed inside
    mx.compile, as a decode step runs them.
    """

    def __init__(
        self,
        timed: Sequence[Step],
        compared: Sequence[Step],
        *,
        clock: Callable[[], float] = time.perf_counter,
        compiled: bool = True,
    ) -> None:
        self._timed = [record(step) for step in timed]
        self._compared = [*self._timed, *(record(step) for step in compared)]
        self._clock, self._compiled = clock, compiled

    def admit(
        self, candidates: Candidates, choice: KernelChoice, other_twins: Candidates = NONE
    ) -> tuple[Kernels, tuple[Row, ...]]:
        """The twins, with the fastest kernel that proved itself in the place of each that has one,
        and a row for every region. What an admitted kernel does not take later, its twin takes.
        Of `other_twins` those are tried whatever the choice of kernels is."""
        kernels, rows = Kernels.plain(), []
        for name in REGIONS:
            twin = self._twin(name, other_twins.get(name, ()))
            found = [
                (self._tried(name, candidate, choice, twin), candidate)
                for candidate in candidates.get(name, ())
            ] or [(Row(name, False, NO_KERNELS), twin)]
            row, candidate = min(found, key=lambda pair: _rank(pair[0]))
            form = or_twin(candidate.kernel, twin.kernel) if row.admitted else twin.kernel
            kernels = replace(kernels, **{name: form})
            rows.append(replace(row, twin=twin.size))
        return kernels, tuple(rows)

    def _twin(self, name: str, others: Sequence[Candidate]) -> Candidate:
        """The fastest that agrees with the plain one, which it may be itself."""
        plain = Candidate("", getattr(Kernels.plain(), name))
        found = [(self._tried(name, other, "auto", plain), other) for other in others]
        admitted = [(row, other) for row, other in found if row.admitted]
        return min(admitted, key=lambda pair: _rank(pair[0]))[1] if admitted else plain

    def _tried(
        self, name: str, candidate: Candidate, choice: KernelChoice, against: Candidate
    ) -> Row:
        """Compared with the plain twin, timed against the one that would run instead."""
        if choice == "off" or (choice != "auto" and name not in choice):
            return Row(name, False, "turned off")
        twin, kernel = getattr(Kernels.plain(), name), candidate.kernel
        calls = [call for step in self._compared for call in _some(step[name])]
        if not calls:
            return Row(name, False, "this network does not use it")
        row = Row(name, False, "", size=candidate.size)
        try:
            error = _worst(_error(call, twin, kernel) for call in calls)
            row, limit = replace(row, error=error), TOLERANCE[_narrowest(calls)]
            if not error <= limit:  # NaN is not
                return replace(row, reason=f"differs by {error:.1e}, more than {limit:.1e}")
            times = [
                self._times(step[name], against.kernel, kernel)
                for step in self._timed
                if step[name]
            ]
        except Exception as failure:  # whatever a device or driver raises: the twin is there
            reason = f"raised {type(failure).__name__}: {_first_line(failure)}"
            return replace(row, reason=reason, error=None)
        slower = next((found for found in times if not found.kernel_wins), None)
        shown = slower or times[0]
        row = replace(row, twin_us=shown.twin_us, kernel_us=shown.kernel_us)
        if slower is None:
            return replace(row, admitted=True, reason="agrees, faster")
        if choice == "auto":
            return replace(row, reason="agrees, not faster")
        return replace(row, admitted=True, reason="agrees, asked for by name though not faster")

    def _times(
        self, calls: Sequence[Call], twin: Callable[..., Any], kernel: Callable[..., Any]
    ) -> _Times:
        """Twin and kernel in turns, each time all calls of a step: with the weights of all layers,
        so that no cache flatters them."""
        forms = [self._chain(calls, twin), self._chain(calls, kernel)]
        inputs = [call.arrays() for call in calls]
        for form in forms:
            mx.eval(form(inputs))
        taken: tuple[list[float], list[float]] = [], []
        for turn in range(ROUNDS):
            for which in (0, 1) if turn % 2 else (1, 0):
                begin = self._clock()
                mx.eval(forms[which](inputs))
                taken[which].append((self._clock() - begin) / len(calls) * 1e6)
        won = sum(ours < theirs for theirs, ours in zip(*taken, strict=True))
        return _Times(median(taken[0]), median(taken[1]), won)

    def _chain(self, calls: Sequence[Call], function: Callable[..., Any]) -> Callable[..., Any]:
        def chain(inputs: list[list[mx.array]]) -> list[list[mx.array]]:
            pairs = zip(calls, inputs, strict=True)
            return [call.with_arrays(arrays).of(function) for call, arrays in pairs]

        return mx.compile(chain) if self._compiled else chain


@dataclass(frozen=True, slots=True)
class _Times:
    twin_us: float
    kernel_us: float
    won: int

    @property
    def kernel_wins(self) -> bool:
        return self.won >= WON and self.kernel_us < self.twin_us


def without_kernels(choice: KernelChoice) -> tuple[Row, ...]:
    """The table of a device that has none."""
    reason = "turned off" if choice == "off" else NO_KERNELS
    return tuple(Row(name, False, reason) for name in REGIONS)


def summary(rows: Sequence[Row]) -> str:
    """One line for the log."""
    admitted = [row.name for row in rows if row.admitted]
    refused = [f"{row.name} ({row.reason})" for row in rows if not row.admitted]
    if not admitted and len({row.reason for row in rows}) == 1:
        return rows[0].reason
    return f"admitted {', '.join(admitted) or 'none'}; not admitted {', '.join(refused) or 'none'}"


def _rank(row: Row) -> tuple[bool, bool, float]:
    """Admitted ones first, then those that were timed, the fastest first."""
    return not row.admitted, row.kernel_us is None, row.kernel_us or 0.0


def _some(calls: Sequence[Call]) -> list[Call]:
    step = max((len(calls) - 1) // (COMPARED - 1), 1)
    return [*calls[:-1:step][: COMPARED - 1], *calls[-1:]]


def _error(call: Call, twin: Callable[..., Any], kernel: Callable[..., Any]) -> float:
    """Largest difference of any output, as a part of that output's largest value in the twin with
    float32 activations; infinite where whole numbers, shapes or types differ."""
    got, like = call.of(kernel), call.of(twin)
    wide = [x.astype(mx.float32) if _is_float(x) else x for x in call.arrays()]
    want = call.with_arrays(wide).of(twin)
    if [(x.shape, x.dtype) for x in got] != [(x.shape, x.dtype) for x in like]:
        return float("inf")
    return _worst(_difference(a, b) for a, b in zip(got, want, strict=True))


def _difference(got: mx.array, want: mx.array) -> float:
    if not _is_float(want):
        return 0.0 if mx.array_equal(got, want).item() else float("inf")
    largest = mx.maximum(mx.abs(want).max(), 1e-20)
    error = mx.abs(got.astype(mx.float32) - want).max() / largest
    return float(error.item())  # type: ignore[arg-type]


def _worst(errors: Iterable[float]) -> float:
    """The largest, or NaN where there is one, which Python's max() may drop."""
    return max(errors, key=lambda error: math.inf if math.isnan(error) else error)


def _narrowest(calls: Sequence[Call]) -> mx.Dtype:
    """The activation type: of all floats that come in the one with the fewest bits."""
    types = {x.dtype for call in calls for x in call.arrays() if _is_float(x)}
    return max(types, key=lambda dtype: TOLERANCE[dtype])


def _is_float(x: mx.array) -> bool:
    return mx.issubdtype(x.dtype, mx.floating)


def _first_line(failure: Exception) -> str:
    return (str(failure).strip().splitlines() or ["no message"])[0][:200]
