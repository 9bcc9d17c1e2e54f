"""From names in a file to names in the network, for the MLX and the original layout.

The original layout fuses the experts' gate and up projections, keeps the convolution as
[channels, 1, width] and stores most norms minus one. Vision and MTP tensors are recognised and set
aside; those of the MTP head are arranged by themselves. Knows names and shapes, reads nothing.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .config import module_path
from .safetensors_files import StoredTensor
from .tensors import Shape

# What has to be done to a stored tensor.
Change = Literal["none", "gate half", "up half", "move channels", "add one"]

_ASIDE = re.compile(r"(^|\.)(visual|vision_tower|vision_model|mtp)\.|(^|\.)mtp_")
_SHIFTED = re.compile(
    r"(^model\.norm|input_layernorm|post_attention_layernorm|self_attn\.[qk]_norm)\.weight$"
)
_MTP = re.compile(r"(^|\.)mtp\.")
_NORM = re.compile(r"norm(_embedding|_hidden)?\.weight$")
_FUSED = ".mlp.experts.gate_up_proj"
_DOWN = ".mlp.experts.down_proj"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tensor of the network comes from, and what is done to it on the way."""

    stored: StoredTensor
    change: Change = "none"


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The network's names, each with its sources (more than one is an error)."""

    original: bool
    sources: dict[str, list[Source]]
    set_aside: tuple[str, ...]


def arrange(tensors: Iterable[StoredTensor], *, tied: bool) -> Arrangement:
    """Gives every stored tensor its name in the network; whether that name belongs is not checked.

    A head stored beside tied embeddings is set aside: it repeats them.
    """
    kept: list[tuple[str, StoredTensor]] = []
    aside: list[str] = []
    for tensor in tensors:
        path = module_path(tensor.name)
        if _ASIDE.search(tensor.name) or (tied and path.startswith("lm_head.")):
            aside.append(tensor.name)
        else:
            kept.append((path, tensor))
    original = any(_is_original(path, tensor) for path, tensor in kept)
    sources: dict[str, list[Source]] = {}
    for path, tensor in kept:
        named = _from_original(path, tensor) if original else {path: Source(tensor)}
        for name, source in named.items():
            sources.setdefault(name, []).append(source)
    return Arrangement(original, sources, tuple(sorted(aside)))


def is_mtp(name: str) -> bool:
    """Whether a stored tensor belongs to the MTP head."""
    return _MTP.search(name) is not None


def is_norm(name: str) -> bool:
    """Whether a tensor of the MTP head is the weight of a norm; each of them may lack its one."""
    return _NORM.search(name) is not None


def arrange_mtp(tensors: Iterable[StoredTensor], *, add_one: bool) -> Arrangement:
    """The same for the MTP head, whose layout is told by its own names; `add_one`: its norms are
    stored minus one."""
    kept = [(f"mtp.{_MTP.split(tensor.name, 1)[-1]}", tensor) for tensor in tensors]
    original = any(_is_original(path, tensor) for path, tensor in kept)
    sources: dict[str, list[Source]] = {}
    for path, tensor in kept:
        named = _from_original(path, tensor) if original else {path: Source(tensor)}
        for name, source in named.items():
            if is_norm(name):
                source = Source(tensor, "add one" if add_one else "none")
            sources.setdefault(name, []).append(source)
    return Arrangement(original, sources, ())


def _is_original(path: str, tensor: StoredTensor) -> bool:
    if path.endswith((_FUSED, _DOWN)):
        return True
    return path.endswith("conv1d.weight") and len(tensor.shape) == 3 and tensor.shape[2] != 1


def _from_original(path: str, tensor: StoredTensor) -> dict[str, Source]:
    if path.endswith(_FUSED):
        base = path.removesuffix("experts.gate_up_proj") + "switch_mlp."
        return {
            f"{base}gate_proj.weight": Source(tensor, "gate half"),
            f"{base}up_proj.weight": Source(tensor, "up half"),
        }
    if path.endswith(_DOWN):
        name = path.removesuffix("experts.down_proj") + "switch_mlp.down_proj.weight"
        return {name: Source(tensor)}
    if path.endswith("conv1d.weight"):
        return {path: Source(tensor, "move channels")}
    return {path: Source(tensor, "add one" if _SHIFTED.search(path) else "none")}


def stored_name(name: str, *, original: bool) -> str:
    """The name under which a tensor of the network would be stored, for messages."""
    if not original:
        return name if is_mtp(name) else f"language_model.{name}"
    for part in ("gate_proj", "up_proj"):
        name = name.replace(f"switch_mlp.{part}.weight", "experts.gate_up_proj")
    name = name.replace("switch_mlp.down_proj.weight", "experts.down_proj")
    return name if is_mtp(name) else name.replace("model.", "model.language_model.", 1)


def stored_shape(shape: Shape, change: Change) -> Shape:
    """The shape in the file of what has `shape` in the network."""
    if change in ("gate half", "up half"):
        experts, inner, hidden = shape
        return experts, 2 * inner, hidden
    if change == "move channels":
        channels, width, one = shape
        return channels, one, width
    return shape
