"""What a checkpoint's headers must hold, checked against its configuration before any reading.

Decides for every module how it is quantized: by config.json's map, else by what the shapes and
types of the stored parts say. Reads headers only; the arrays are checkpoint.py's.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .config import AFFINE_BITS, AFFINE_GROUPS, ModelConfig, Quantization, QuantSpec
from .layout import Arrangement, Source, arrange, stored_name, stored_shape
from .safetensors_files import StoredTensor, problems_error, stored_tensors
from .tensors import Kind, Shape, TensorSpec, expected_tensors

_FLOATS = ("BF16", "F16", "F32")
_BY_BITS_AND_GROUP: dict[tuple[int, int], QuantSpec] = {
    (8, 32): QuantSpec(8, 32, "mxfp8"),
    (4, 32): QuantSpec(4, 32, "mxfp4"),
    (4, 16): QuantSpec(4, 16, "nvfp4"),
}


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the network, whole or as the parts of a quantized matrix."""

    name: str
    kind: Kind
    source: Source
    spec: QuantSpec | None = None
    scales: Source | None = None
    biases: Source | None = None

    @property
    def module(self) -> str:
        return self.name.removesuffix(".weight")

    def sources(self) -> Iterator[Source]:
        yield from (s for s in (self.source, self.scales, self.biases) if s is not None)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Everything to load, file by file, and the names of what stays on disk."""

    tensors: tuple[PlannedTensor, ...]
    files: tuple[Path, ...]
    set_aside: tuple[str, ...]


def plan_loading(folder: Path, config: ModelConfig) -> LoadPlan:
    """Reads the headers and checks every tensor's presence, dtype and shape.

    Raises one CheckpointError that lists what is missing, unexpected or wrong: file, tensor,
    expected, found.
    """
    stored = stored_tensors(folder)
    arrangement = arrange(stored.values(), tied=config.tie_word_embeddings)
    return plan_arranged(folder, config, arrangement, expected_tensors(config), stored.values())


def plan_arranged(
    folder: Path,
    config: ModelConfig,
    arrangement: Arrangement,
    expected: Mapping[str, TensorSpec],
    stored: Iterable[StoredTensor],
) -> LoadPlan:
    """The plan for `expected` tensors out of those that were arranged; raises as plan_loading()."""
    check = _Check(config.quantization, arrangement)
    planned = [check.plan(name, spec) for name, spec in expected.items()]
    check.report_unexpected()
    if check.problems:
        raise problems_error(folder, "tensors that do not fit config.json", check.problems)
    tensors = [tensor for tensor in planned if tensor is not None]
    files = dict.fromkeys(sorted(tensor.file for tensor in stored))
    return LoadPlan(tuple(tensors), tuple(files), arrangement.set_aside)


class _Check:
    """Takes the network's tensors out of the stored ones and notes every problem."""

    def __init__(self, quantization: Quantization, arrangement: Arrangement) -> None:
        self.problems: list[str] = []
        self._quantization = quantization
        self._original = arrangement.original
        self._left = {name: list(found) for name, found in arrangement.sources.items()}

    def plan(self, name: str, tensor: TensorSpec) -> PlannedTensor | None:
        """What to load for one tensor; None, and a problem noted, when it cannot be."""
        module = name.removesuffix(".weight")
        source = self._take(name)
        if source is None:
            self._missing(name, f"a tensor {_text(tensor.shape)}")
            for part in ("scales", "biases") if tensor.kind == "matrix" else ():
                self._take(f"{module}.{part}")
            return None
        if tensor.kind == "matrix":
            mapped = module in self._quantization.modules
            spec = self._quantization.modules.get(module)
            if spec is not None or (not mapped and f"{module}.scales" in self._left):
                return self._plan_quantized(name, tensor.shape, source, spec)
        self._expect(source, stored_shape(tensor.shape, source.change), _FLOATS)
        return PlannedTensor(name, tensor.kind, source)

    def _plan_quantized(
        self, name: str, shape: Shape, weight: Source, spec: QuantSpec | None
    ) -> PlannedTensor | None:
        module = name.removesuffix(".weight")
        scales = self._take(f"{module}.scales")
        if scales is None:
            self._missing(f"{module}.scales", f"the scales of a {_spec_text(spec)} matrix")
            return None
        # The map names only exceptions, and not every converter's default is the one it used.
        spec = spec or _inferred(shape, weight.stored, scales.stored) or self._quantization.default
        if spec is None or shape[-1] % spec.group_size:
            self.problems.append(
                f"{weight.stored.file.name}: {weight.stored.name}: expected a quantized matrix "
                f"{_text(shape)} in a known format, found {_described(weight.stored)} with scales "
                f"{_described(scales.stored)}"
            )
            self._take(f"{module}.biases")
            return None
        affine = spec.mode == "affine"
        groups = (*shape[:-1], shape[-1] // spec.group_size)
        self._expect(weight, (*shape[:-1], shape[-1] * spec.bits // 32), ("U32",), spec)
        self._expect(scales, groups, _FLOATS if affine else ("U8",), spec)
        biases = self._take(f"{module}.biases") if affine else None
        if biases is not None:
            self._expect(biases, groups, _FLOATS, spec)
        elif affine:
            self._missing(f"{module}.biases", f"the biases of a {_spec_text(spec)} matrix")
        return PlannedTensor(name, "matrix", weight, spec, scales, biases)

    def report_unexpected(self) -> None:
        """Notes every stored tensor that nothing took."""
        for name, sources in self._left.items():
            for source in sources:
                self.problems.append(
                    f"{source.stored.file.name}: {source.stored.name}: expected no such tensor, "
                    f"found {_described(source.stored)} (named {name} here)"
                )

    def _take(self, name: str) -> Source | None:
        sources = self._left.pop(name, None)
        if sources is None:
            return None
        first, *rest = sources
        for source in rest:
            self.problems.append(
                f"{source.stored.file.name}: {source.stored.name}: expected once, also stored as "
                f"{first.stored.name}"
            )
        return first

    def _missing(self, name: str, expected: str) -> None:
        on_disk = stored_name(name, original=self._original)
        self.problems.append(f"in no file: {on_disk}: expected {expected}, found nothing")

    def _expect(
        self, source: Source, shape: Shape, dtypes: tuple[str, ...], spec: QuantSpec | None = None
    ) -> None:
        stored = source.stored
        if stored.shape == shape and stored.dtype in dtypes:
            return
        how = f" ({_spec_text(spec)})" if spec else ""
        self.problems.append(
            f"{stored.file.name}: {stored.name}: expected {' or '.join(dtypes)} {_text(shape)}{how}"
            f", found {_described(stored)}"
        )


def _inferred(shape: Shape, weight: StoredTensor, scales: StoredTensor) -> QuantSpec | None:
    """The format that the parts of a matrix of this shape have; None if they fit none."""
    if weight.dtype != "U32" or not weight.shape or not scales.shape or not scales.shape[-1]:
        return None
    inputs = shape[-1]
    bits, bits_rest = divmod(32 * weight.shape[-1], inputs)
    group_size, group_rest = divmod(inputs, scales.shape[-1])
    if bits_rest or group_rest:
        return None
    if scales.dtype == "U8":
        return _BY_BITS_AND_GROUP.get((bits, group_size))
    if bits in AFFINE_BITS and group_size in AFFINE_GROUPS:
        return QuantSpec(bits, group_size, "affine")
    return None


def _text(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _described(stored: StoredTensor) -> str:
    return f"{stored.dtype} {_text(stored.shape)}"


def _spec_text(spec: QuantSpec | None) -> str:
    return "quantized" if spec is None else f"{spec.mode} {spec.bits}-bit g{spec.group_size}"
