"""Writes a random checkpoint in a real format: `python -m model.random_checkpoint FOLDER`.

For tests, and for load, memory and speed at the real model's width, which needs no download. Made
tensor by tensor and written file by file, so that memory holds little more than one file.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx

from .config import ModelConfig, QuantSpec, read_config
from .layout import is_norm
from .random_values import (
    GEOMETRIES,
    TURN,
    mtp_shapes,
    random_block,
    repeated,
    vision_config,
    vision_shapes,
)
from .safetensors_files import INDEX
from .storage_formats import FORMATS, StorageFormat
from .tensors import Shape, TensorSpec, expected_tensors

_DEMO = Path(__file__).parent / "demo" / "checkpoint"
_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_REAL_EOS = [248046, 248044]


@dataclass(frozen=True, slots=True)
class _Piece:
    """One tensor to write: names in the network, whose values are joined along axis 1."""

    stored: str
    names: tuple[str, ...]
    shape: Shape  # of each name's tensor, in the MLX layout
    spec: QuantSpec | None = None
    plus_one: bool = True  # norms as in the MLX layout
    move_channels: bool = False

    @property
    def values(self) -> int:
        return len(self.names) * prod(self.shape)


def write_random_checkpoint(
    folder: Path,
    *,
    geometry: str | Mapping[str, Any] = "tiny",
    layers: int | None = None,
    experts: int | None = None,
    format: str = "mlx-ud-mxfp8",
    seed: int = 0,
    shards: int | None = None,
    with_vision: bool = False,
    with_mtp: bool = False,
    tied: bool = False,
) -> None:
    """Writes config, weights and, where the demo has them, tokenizer and template into `folder`.

    geometry: "tiny", "full", or a text_config of one's own. experts: of each layer, fewer than the
    geometry has where memory is small. shards: number of weight files; None
    is one, or for the full width one per layer and one for each table. Raises ValueError for an
    unknown geometry or format or a count below 1.
    """
    storage = _choice(FORMATS, format, "format")
    text = dict(
        _choice(GEOMETRIES, geometry, "geometry") if isinstance(geometry, str) else geometry
    )
    count: int = text["num_hidden_layers"] if layers is None else layers
    text["num_hidden_layers"] = count
    if experts is not None:
        if experts < text["num_experts_per_tok"]:
            raise ValueError(f"experts must be at least {text['num_experts_per_tok']}")
        text["num_experts"] = experts
    if shards is None:
        shards = count + 2 if geometry == "full" else 1
    if count < 1 or shards < 1:
        raise ValueError("layers and shards must be at least 1")
    vision = vision_config(text) if with_vision else None
    folder.mkdir(parents=True, exist_ok=True)
    config = _write_config(folder, storage, text, vision, with_mtp=with_mtp, tied=tied)
    pieces = list(_pieces(config, storage))
    if vision is not None:
        prefix = "model.visual" if storage.original else "vision_tower"
        shapes = vision_shapes(vision, original=storage.original)
        pieces += [_Piece(f"{prefix}.{name}", (name,), shape) for name, shape in shapes.items()]
    if with_mtp:
        shapes = mtp_shapes(_original_layer(config), config.hidden_size)
        # In the MLX layout with their one, as a converter that adds it writes them.
        plain = {name: not (storage.original and is_norm(name)) for name in shapes}
        pieces += [
            _Piece(name, (name,), shape, plus_one=plain[name]) for name, shape in shapes.items()
        ]
    _write_weights(folder, pieces, seed, shards)
    for name in _TEXT_FILES:
        if (_DEMO / name).exists():
            shutil.copy(_DEMO / name, folder / name)
    if (folder / "tokenizer.json").exists():
        _give_every_id_a_text(folder / "tokenizer.json", config.vocab_size)


def _give_every_id_a_text(tokenizer: Path, vocab_size: int) -> None:
    """Adds words nobody writes: random weights choose any id, and each answer should be text."""
    document = json.loads(tokenizer.read_text(encoding="utf-8"))
    words = document["model"]["vocab"]
    taken = {*words.values(), *(token["id"] for token in document["added_tokens"])}
    fillers = {f"\u0120id{i}": i for i in range(vocab_size) if i not in taken}
    if fillers:
        words |= fillers
        tokenizer.write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")


def _choice(table: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise ValueError(f"{what}: expected one of {', '.join(table)}, found {name!r}")
    return table[name]


def _write_config(
    folder: Path,
    storage: StorageFormat,
    text: Mapping[str, Any],
    vision: Mapping[str, int] | None,
    *,
    with_mtp: bool,
    tied: bool,
) -> ModelConfig:
    """Writes config.json and generation_config.json; returns them read again."""
    interval = text["full_attention_interval"]
    kinds = ("linear_attention", "full_attention")
    layer_types = [kinds[(i + 1) % interval == 0] for i in range(text["num_hidden_layers"])]
    top: dict[str, Any] = {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "tie_word_embeddings": tied,
        "text_config": {"layer_types": layer_types} | dict(text),
    }
    if with_mtp:
        top["text_config"]["mtp_num_hidden_layers"] = 1
    if vision is not None:
        top["vision_config"] = dict(vision)
    _write_json(folder / "config.json", top)
    generation = {"do_sample": True, "temperature": 1.0, "top_k": 20, "top_p": 0.95}
    eos: Any = _REAL_EOS
    if (_DEMO / "generation_config.json").exists():
        eos = json.loads((_DEMO / "generation_config.json").read_text())["eos_token_id"]
    _write_json(folder / "generation_config.json", generation | {"eos_token_id": eos})
    config = read_config(folder)
    matrices = (n for n, spec in expected_tensors(config).items() if spec.kind == "matrix")
    section = storage.config_section(name.removesuffix(".weight") for name in matrices)
    if section is not None:
        top |= {"quantization": section, "quantization_config": section}
        _write_json(folder / "config.json", top)
    return read_config(folder)


def _pieces(config: ModelConfig, storage: StorageFormat) -> Iterator[_Piece]:
    for name, spec in expected_tensors(config).items():
        if storage.original:
            yield from _original_piece(name, spec)
            continue
        quant = storage.spec(name.removesuffix(".weight")) if spec.kind == "matrix" else None
        yield _Piece(f"language_model.{name}", (name,), spec.shape, quant)


def _original_piece(name: str, spec: TensorSpec) -> Iterator[_Piece]:
    stored = name.replace("model.", "model.language_model.", 1)
    if name.endswith("switch_mlp.up_proj.weight"):
        return  # written with its gate
    if name.endswith("switch_mlp.gate_proj.weight"):
        stored = stored.replace("switch_mlp.gate_proj.weight", "experts.gate_up_proj")
        yield _Piece(stored, (name, name.replace("gate_proj", "up_proj")), spec.shape)
        return
    stored = stored.replace("switch_mlp.down_proj.weight", "experts.down_proj")
    yield _Piece(
        stored,
        (name,),
        spec.shape,
        plus_one=not name.endswith("norm.weight") or name.endswith("linear_attn.norm.weight"),
        move_channels=name.endswith("conv1d.weight"),
    )


def _original_layer(config: ModelConfig) -> dict[str, Shape]:
    """Name within the layer -> shape, of a full-attention layer in the original layout."""
    single = replace(config, layer_types=("full_attention",), num_hidden_layers=1)
    shapes: dict[str, Shape] = {}
    for name, spec in expected_tensors(single).items():
        for piece in _original_piece(name, spec) if ".layers.0." in name else ():
            first, *rest = piece.shape
            shape = (first, rest[0] * len(piece.names), *rest[1:]) if rest else (first,)
            shapes[piece.stored.split("layers.0.")[1]] = shape
    return shapes


def _write_weights(folder: Path, pieces: list[_Piece], seed: int, shards: int) -> None:
    """Writes the tensors in order, each file holding about as many values as the others."""
    total = sum(piece.values for piece in pieces)
    starts = [sum(p.values for p in pieces[:i]) for i in range(len(pieces))]
    numbered = [(start * shards // total, p) for start, p in zip(starts, pieces, strict=True)]
    files = [[piece for _, piece in group] for _, group in groupby(numbered, lambda pair: pair[0])]
    weight_map: dict[str, str] = {}
    for i, group in enumerate(files, 1):
        name = f"model-{i:05}-of-{len(files):05}.safetensors"
        name = "model.safetensors" if len(files) == 1 else name
        arrays: dict[str, mx.array] = {}
        for piece in group:
            arrays |= _stored_arrays(piece, seed)
        mx.save_safetensors(str(folder / name), arrays, {"format": "mlx"})
        weight_map |= dict.fromkeys(arrays, name)
    index = {"metadata": {"total_parameters": total}, "weight_map": weight_map}
    _write_json(folder / INDEX, index)


def _stored_arrays(piece: _Piece, seed: int) -> dict[str, mx.array]:
    """The tensors of a piece as stored: one, or the parts of a quantized matrix."""
    parts = [_whole(piece, seed, name) for name in piece.names]
    joined = parts[0] if len(parts) == 1 else [mx.concatenate([p[0] for p in parts], axis=1)]
    mx.eval(joined)
    module = piece.stored.removesuffix(".weight")
    if piece.spec is None:
        return {piece.stored: joined[0]}
    suffixes = ("weight", "scales", "biases")
    return {f"{module}.{suffix}": part for suffix, part in zip(suffixes, joined, strict=False)}


def _whole(piece: _Piece, seed: int, name: str) -> list[mx.array]:
    block, rows = random_block(seed, name, piece.shape), piece.shape[0]
    if piece.spec is None:
        block = block if piece.plus_one else block - 1
        block = block.swapaxes(1, 2) if piece.move_channels else block
        return [repeated(block.astype(mx.bfloat16), rows, TURN)]
    spec = piece.spec
    # On the CPU the shared exponent is rounded up; Metal's is rounded to nearest and saturates.
    quantized = mx.quantize(
        block.astype(mx.bfloat16),
        group_size=spec.group_size,
        bits=spec.bits,
        mode=spec.mode,
        stream=mx.cpu,
    )
    turns = (TURN * spec.bits // 32, TURN // spec.group_size, TURN // spec.group_size)
    return [repeated(part, rows, turn) for part, turn in zip(quantized, turns, strict=False)]


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m model.random_checkpoint", description="Writes a random checkpoint."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="tiny")
    parser.add_argument("--layers", type=int, help="default: the geometry's own number")
    parser.add_argument("--experts", type=int, help="of each layer; default: likewise")
    parser.add_argument("--format", choices=FORMATS, default="mlx-ud-mxfp8")
    parser.add_argument("--shards", type=int, help="number of weight files")
    parser.add_argument("--with-vision", action="store_true")
    parser.add_argument("--with-mtp", action="store_true")
    parser.add_argument("--tied", action="store_true", help="no head of its own")
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    try:
        write_random_checkpoint(options.pop("folder"), **options)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
