"""Loads a checkpoint folder into arrays in the MLX layout.

Everything is checked from the headers first (load_plan.py); then tensors are read one at a time,
or all those of a matrix that is joined (joining.py), so that memory peaks little above what stays.
Knows arrays and files, nothing about the network's computation.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import cast

import mlx.core as mx

from .config import ModelConfig, QuantSpec
from .device import DeviceInfo
from .errors import CheckpointError
from .joining import Join, join_arrays, joins
from .layout import Change, Source
from .load_plan import LoadPlan, PlannedTensor, plan_loading
from .safetensors_files import fingerprint, stored_tensors
from .tensors import expected_tensors, parameter_count

Progress = Callable[[int, int], None]

_SHARE_OF_MEMORY = 0.6  # of what is free, for float32 weights; caches and activations need the rest


@dataclass(frozen=True, slots=True)
class Weights:
    """The arrays of a network, evaluated.

    arrays: name without the `language_model.` prefix -> array; quantized matrices keep their
        `.weight` (uint32), `.scales` and, in affine mode, `.biases`. Joined matrices stand under
        the name of their join.
    quantized: module path -> how it is stored, for the matrices that are still quantized.
    set_aside: names in the files of the tensors that were not loaded (vision, MTP).
    bytes_on_disk: size of all weight files together.
    """

    arrays: dict[str, mx.array]
    quantized: dict[str, QuantSpec]
    set_aside: tuple[str, ...]
    bytes_on_disk: int
    fingerprint: str


def load_weights(
    folder: Path,
    config: ModelConfig,
    *,
    compute_dtype: mx.Dtype,
    dequantize: bool,
    progress: Progress | None = None,
    plan: LoadPlan | None = None,
) -> Weights:
    """Loads all tensors of the text network, single-file or sharded, MLX or original layout.

    Floats become `compute_dtype`, `A_log` and `dt_bias` float32. With `dequantize` quantized
    matrices become `compute_dtype` too. `progress(bytes_done, bytes_total)` is called after every
    tensor. `plan`: the folder's, where the caller has made it already. Raises CheckpointError
    before any tensor is read if one is missing, unexpected or wrong.
    """
    plan = plan or plan_loading(folder, config)
    specs = {} if dequantize else {tensor.module: tensor.spec for tensor in plan.tensors}
    arrays, quantized = load_planned(
        plan, joins(config, specs.get), compute_dtype, dequantize=dequantize, progress=progress
    )
    return Weights(
        arrays=arrays,
        quantized=quantized,
        set_aside=plan.set_aside,
        bytes_on_disk=sum(file.stat().st_size for file in plan.files),
        fingerprint=fingerprint(folder),
    )


def load_planned(
    plan: LoadPlan,
    joined: Iterable[Join],
    dtype: mx.Dtype,
    *,
    dequantize: bool,
    progress: Progress | None = None,
) -> tuple[dict[str, mx.array], dict[str, QuantSpec]]:
    """`arrays` and `quantized` (see Weights) of a plan."""
    loader = _Loader(plan, list(joined), dtype, dequantize, progress)
    loader.run()
    return loader.arrays, loader.quantized


def dequantize_fits(folder: Path, config: ModelConfig, device: DeviceInfo) -> bool:
    """Whether this is a CPU whose free memory takes the float32 weights with room to work."""
    if device.kind != "cpu":
        return False
    largest = max(tensor.nbytes for tensor in stored_tensors(folder).values())
    matrix = max(prod(spec.shape) for spec in expected_tensors(config).values())
    # Gate and up of all experts stand beside the matrix they are joined to.
    peak = 4 * (parameter_count(config) + 2 * matrix) + largest
    return peak <= _SHARE_OF_MEMORY * device.memory_available


class _Loader:
    """Reads the tensors of a plan, each evaluated on its own and its lazy parts dropped."""

    def __init__(
        self,
        plan: LoadPlan,
        joined: list[Join],
        dtype: mx.Dtype,
        dequantize: bool,
        progress: Progress | None,
    ) -> None:
        self.arrays: dict[str, mx.array] = {}
        self.quantized: dict[str, QuantSpec] = {}
        self._plan = plan
        self._by_module = {tensor.module: tensor for tensor in plan.tensors}
        self._joins = {member: join for join in joined for member in join.members()}
        self._dtype = dtype
        self._dequantize = dequantize
        self._progress = progress
        stored = [source.stored for tensor in plan.tensors for source in tensor.sources()]
        self._uses = Counter(tensor.name for tensor in stored)
        self._total = sum({tensor.name: tensor.nbytes for tensor in stored}.values())
        self._done = 0
        self._lazy: dict[str, mx.array] = {}

    def run(self) -> None:
        for file in self._plan.files:
            self._lazy |= self._lazily_loaded(file)
        done: set[str] = set()
        for tensor in self._plan.tensors:
            join = self._joins.get(tensor.module)
            name = tensor.name if join is None else join.name
            if name in done:
                continue
            done.add(name)
            try:
                if join is None:
                    self._load(tensor)
                else:
                    self._load_joined(join)
            except RuntimeError as error:  # the file changed or failed after its header was read
                stored = tensor.source.stored
                raise CheckpointError(f"{stored.file}: {stored.name}: {error}") from error
            if self._progress is not None:
                self._progress(self._done, self._total)
        mx.clear_cache()

    def _lazily_loaded(self, file: Path) -> dict[str, mx.array]:
        loaded = cast(dict[str, mx.array], mx.load(str(file)))
        return {name: array for name, array in loaded.items() if name in self._uses}

    def _load(self, tensor: PlannedTensor) -> None:
        if tensor.kind != "matrix":
            dtype = mx.float32 if tensor.kind == "float32" else self._dtype
            # A view would keep the whole of the stored tensor alive.
            array = mx.contiguous(_changed(self._take(tensor.source), tensor.source.change, dtype))
            self._keep(tensor.name, array)
            return
        parts = self._matrix(tensor)
        for suffix in list(parts):
            self._keep(f"{tensor.module}.{suffix}", mx.contiguous(parts.pop(suffix)))
        self._note(tensor.module, tensor)

    def _load_joined(self, join: Join) -> None:
        groups = [[self._by_module[path] for path in group] for group in join.groups]
        parts = [[self._matrix(tensor) for tensor in group] for group in groups]
        for suffix in list(parts[0][0]):
            # Nothing else holds them, so each is freed as soon as it is copied.
            array = join_arrays([[part.pop(suffix) for part in group] for group in parts])
            self._keep(f"{join.name}.{suffix}", array)
        self._note(join.name, groups[0][0])

    def _note(self, module: str, tensor: PlannedTensor) -> None:
        if tensor.spec is not None and not self._dequantize:
            self.quantized[module] = tensor.spec

    def _matrix(self, tensor: PlannedTensor) -> dict[str, mx.array]:
        """Suffix -> lazy array of what is kept of a matrix."""
        if tensor.spec is None:
            weight = self._take(tensor.source)
            return {"weight": _changed(weight, tensor.source.change, self._dtype)}
        weight, (scales, biases) = self._take(tensor.source), self._quantization_parts(tensor)
        if self._dequantize:
            return {"weight": self._dequantized(weight, scales, biases, tensor.spec)}
        parts = {"weight": weight, "scales": scales}
        return parts if biases is None else parts | {"biases": biases}

    def _quantization_parts(self, tensor: PlannedTensor) -> tuple[mx.array, mx.array | None]:
        """(scales, biases), cast once here because a matrix product would cast them every time."""
        if tensor.scales is None:
            raise ValueError(f"{tensor.name}: planned as quantized without scales")
        scales = self._take(tensor.scales)
        if tensor.biases is None:
            return scales, None
        return scales.astype(self._dtype), self._take(tensor.biases).astype(self._dtype)

    def _dequantized(
        self, weight: mx.array, scales: mx.array, biases: mx.array | None, spec: QuantSpec
    ) -> mx.array:
        return mx.dequantize(
            weight,
            scales,
            biases,
            group_size=spec.group_size,
            bits=spec.bits,
            mode=spec.mode,
            dtype=self._dtype,
        )

    def _take(self, source: Source) -> mx.array:
        """The stored array, dropped here at its last use; one used twice is read once."""
        name = source.stored.name
        self._uses[name] -= 1
        if self._uses[name]:
            mx.eval(self._lazy[name])
            return self._lazy[name]
        self._done += source.stored.nbytes
        return self._lazy.pop(name)

    def _keep(self, name: str, array: mx.array) -> None:
        mx.eval(array)
        self.arrays[name] = array


def _changed(array: mx.array, change: Change, dtype: mx.Dtype) -> mx.array:
    """What the network has of a stored array; it may be a view."""
    if change == "add one":
        return (array.astype(mx.float32) + 1).astype(dtype)
    if change == "move channels":
        array = array.swapaxes(1, 2)
    elif change != "none":
        half = array.shape[1] // 2
        array = array[:, :half] if change == "gate half" else array[:, half:]
    return array.astype(dtype)
