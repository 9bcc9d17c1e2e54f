"""What a decode step asks of its fused regions: real arguments, kept for comparing and timing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import mlx.core as mx

from model.kernels import Kernels

Step = Callable[[Kernels], None]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a region."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def arrays(self) -> list[mx.array]:
        """The arguments that are arrays themselves, in order; the rest are numbers and weights."""
        return [x for x in (*self.args, *self.kwargs.values()) if isinstance(x, mx.array)]

    def with_arrays(self, arrays: list[mx.array]) -> Call:
        """The same call with other arrays in their places."""
        left = iter(arrays)

        def placed(x: Any) -> Any:
            return next(left) if isinstance(x, mx.array) else x

        args = tuple(placed(x) for x in self.args)
        return Call(args, {name: placed(x) for name, x in self.kwargs.items()})

    def of(self, function: Callable[..., Any]) -> list[mx.array]:
        """The outputs of `function` called so."""
        result = function(*self.args, **self.kwargs)
        return [result] if isinstance(result, mx.array) else list(result)


def record(step: Step) -> dict[str, list[Call]]:
    """Runs `step` through twins that write down their arguments; region -> calls, evaluated."""
    calls: dict[str, list[Call]] = {field.name: [] for field in fields(Kernels)}
    twins = Kernels.plain()

    def writing(name: str) -> Any:
        def region(*args: Any, **kwargs: Any) -> Any:
            calls[name].append(Call(args, kwargs))
            return getattr(twins, name)(*args, **kwargs)

        return region

    step(Kernels(**{name: writing(name) for name in calls}))
    for made in calls.values():
        mx.eval([call.arrays() for call in made])
    return calls
