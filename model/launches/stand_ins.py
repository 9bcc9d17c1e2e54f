"""While a function is recorded: one node for each call that Metal serves with kernels of its own.

On a CPU mx.fast.rms_norm, rope, the attention, quantizing and the delta rule decompose into
ordinary primitives, and a custom Metal kernel cannot even be made. Here their names in mlx are
replaced by functions that compute nothing: they give blank arrays of the right shape and type, tied
by mx.depends to what the call read. The node that this leaves says, by a number among its inputs,
what it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import mlx.core as mx

from model.launches.trees import arrays_in

_FIRST_NUMBER = 1 << 40  # no network has an int64 scalar of this size


@dataclass(frozen=True, slots=True)
class StandIn:
    """What one node stands for. settings: what decides how many launches it takes; launches: how
    many, where that is known already."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    launches: int | None = None


class StandIns:
    """The replacements. One object may serve several recordings, one after the other.

    count_compiled: (function, arguments, these stand-ins) -> how many launches a function takes
    that mx.compile made on its own. None: what is recorded runs inside mx.compile as a whole, and
    such a function is simply a part of it. watch: (owner, attribute, name) of functions whose calls
    are told apart. metal: mlx also says that it runs on Metal, for code that asks. compile: whether
    mx.compile is replaced too; left as it is, a step can be traced by it and called.
    """

    def __init__(
        self,
        *,
        count_compiled: Callable[[Callable[..., Any], tuple[Any, ...], StandIns], int]
        | None = None,
        watch: Sequence[tuple[Any, str, str]] = (),
        metal: bool = False,
        compile: bool = True,
    ) -> None:
        self.watched: list[tuple[str, list[mx.array], list[mx.array]]] = []
        self._nodes: list[StandIn] = []
        self._count_compiled, self._metal, self._replace_compile = count_compiled, metal, compile
        self._watch = watch
        self._within = False  # a function that mx.compile made: those inside it are parts of it

    def watch(self, functions: Sequence[tuple[Any, str, str]]) -> None:
        """Tells the calls of these apart from now on, instead of those given at first."""
        self._watch = functions

    def number(self, value: mx.array) -> StandIn:
        """What the node with this number stands for."""
        return self._nodes[int(value.item()) - _FIRST_NUMBER]  # type: ignore[arg-type]

    def node(
        self,
        stand_in: StandIn,
        inputs: Sequence[mx.array],
        outputs: Sequence[tuple[Sequence[int], mx.Dtype]],
    ) -> list[mx.array]:
        """Blank arrays of the given shapes and types, made of `inputs` by one node."""
        self._nodes.append(stand_in)
        number = mx.array(_FIRST_NUMBER + len(self._nodes) - 1, mx.int64)
        blanks = [blank(shape, dtype) for shape, dtype in outputs]
        return list(mx.depends(blanks, [number, *inputs]))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """mlx, and what is watched, replaced; not for several threads at once."""
        replaced: list[tuple[Any, str, Any]] = [
            (mx.fast, "rms_norm", self._rms_norm),
            (mx.fast, "rope", self._rope),
            (mx.fast, "scaled_dot_product_attention", self._attention),
            (mx.fast, "gated_delta_update", self._delta_update),
            (mx.fast, "metal_kernel", self._metal_kernel),
            (mx, "dequantize", self._dequantize),
            (mx, "contiguous", self._contiguous),
        ]
        if self._replace_compile:
            replaced.append((mx, "compile", self._compile))
        if self._metal:
            replaced.append((mx.metal, "is_available", lambda: True))
            replaced.append((mx, "default_device", lambda: mx.Device(mx.gpu)))
        for owner, attribute, name in self._watch:
            replaced.append((owner, attribute, self._watching(getattr(owner, attribute), name)))
        with ExitStack() as stack:
            for owner, attribute, function in replaced:
                stack.enter_context(mock.patch.object(owner, attribute, function))
            yield

    def _watching(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def watching(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            given = arrays_in([*arguments, *named.values()])
            if not self._within:
                self.watched.append((name, given, arrays_in(result)))
            return result

        return watching

    def _rms_norm(
        self, x: mx.array, weight: mx.array | None, eps: float, *, stream: Any = None
    ) -> mx.array:
        if weight is None:
            return self.node(StandIn("rms_norm"), [x], [(x.shape, x.dtype)])[0]
        dtype = mx.result_type(x, weight)
        inputs = [x.astype(dtype), weight.astype(dtype)]
        return self.node(StandIn("rms_norm"), inputs, [(x.shape, dtype)])[0]

    def _rope(
        self,
        a: mx.array,
        dims: int,
        *,
        traditional: bool,
        base: float | None,
        scale: float,
        offset: int | mx.array,
        freqs: mx.array | None = None,
        stream: Any = None,
    ) -> mx.array:
        offset = offset if isinstance(offset, mx.array) else mx.array(offset, mx.int32)
        inputs = [a, offset, *([] if freqs is None else [freqs])]
        stand_in = StandIn("rope", {"partial": dims < a.shape[-1]})
        return self.node(stand_in, inputs, [(a.shape, a.dtype)])[0]

    def _attention(
        self,
        q: mx.array,
        k: mx.array,
        v: mx.array,
        *,
        scale: float,
        mask: str | mx.array | None = None,
        sinks: mx.array | None = None,
        force_fused: bool = False,
        stream: Any = None,
    ) -> mx.array:
        dtype = mx.result_type(q, k, v)
        inputs = [x.astype(dtype) for x in (q, k, v)]
        if isinstance(mask, mx.array):
            wanted = mask.dtype if mask.dtype == mx.bool_ else dtype
            inputs.append(mx.broadcast_to(mask.astype(wanted), (*q.shape[:-1], k.shape[-2])))
        inputs += [] if sinks is None else [sinks.astype(dtype)]
        return self.node(StandIn("attention"), inputs, [((*q.shape[:-1], v.shape[-1]), dtype)])[0]

    def _delta_update(
        self,
        q: mx.array,
        k: mx.array,
        v: mx.array,
        gamma: mx.array,
        beta: mx.array,
        initial_state: mx.array | None = None,
        mask: mx.array | None = None,
        *,
        stream: Any = None,
    ) -> list[mx.array]:
        given = [x for x in (initial_state, mask) if x is not None]
        state = (v.shape[0], v.shape[2], v.shape[3], q.shape[3])
        outputs = [(v.shape, v.dtype), (state, mx.float32)]
        return self.node(StandIn("gated_delta_update"), [q, k, v, gamma, beta, *given], outputs)

    def _metal_kernel(
        self,
        name: str,
        input_names: Sequence[str],
        output_names: Sequence[str],
        source: str,
        header: str = "",
        ensure_row_contiguous: bool = True,
        **_: Any,
    ) -> Callable[..., list[mx.array]]:
        def kernel(
            *,
            inputs: Sequence[Any],
            output_shapes: Sequence[Sequence[int]],
            output_dtypes: Sequence[mx.Dtype],
            init_value: float | None = None,
            **_: Any,
        ) -> list[mx.array]:
            settings = {"copies": ensure_row_contiguous, "fills": init_value is not None}
            arrays = [x if isinstance(x, mx.array) else mx.array(x) for x in inputs]
            outputs = list(zip(output_shapes, output_dtypes, strict=True))
            return self.node(StandIn(f"kernel {name}", settings), arrays, outputs)

        return kernel

    def _dequantize(
        self,
        w: mx.array,
        /,
        scales: mx.array,
        biases: mx.array | None = None,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
        global_scale: mx.array | None = None,
        dtype: mx.Dtype | None = None,
        *,
        stream: Any = None,
    ) -> mx.array:
        width = w.shape[-1] * 32 // (bits or (8 if mode == "mxfp8" else 4))
        dtype = dtype or (scales.dtype if biases is not None else mx.bfloat16)
        inputs = [w, scales, *(x for x in (biases, global_scale) if x is not None)]
        return self.node(StandIn("dequantize"), inputs, [((*w.shape[:-1], width), dtype)])[0]

    def _contiguous(
        self, a: mx.array, /, allow_col_major: bool = False, *, stream: Any = None
    ) -> mx.array:
        return self.node(StandIn("contiguous"), [a], [(a.shape, a.dtype)])[0]

    def _compile(self, fun: Any = None, *_: Any, **__: Any) -> Any:
        if self._count_compiled is None:
            return fun
        count = self._count_compiled
        known: dict[object, int] = {}

        def compiled(*arguments: Any) -> Any:
            if self._within:
                return fun(*arguments)
            inputs = arrays_in(arguments)
            key = tuple((x.shape, x.dtype) for x in inputs)
            self._within = True
            try:
                result = fun(*arguments)
                if key not in known:
                    known[key] = count(fun, arguments, self)
            finally:
                self._within = False
            name = f"compiled {getattr(fun, '__name__', 'function')}"
            outputs = [(x.shape, x.dtype) for x in arrays_in(result)]
            made = self.node(StandIn(name, launches=known[key]), inputs, outputs)
            return made[0] if isinstance(result, mx.array) else type(result)(made)

        return compiled


def blank(shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    """Zeros of any size in the memory of one element."""
    array = mx.broadcast_to(mx.array(0, dtype), tuple(shape))
    mx.eval(array)
    return array
