"""mlx-lm's side: its conversion, its quantisation and its logits.

Everything is evaluated in float32, so that what is left is a difference of method, not of rounding.
"""

# torch, transformers and mlx-lm are not in the environment that is type-checked.
# pyright: reportMissingImports=false

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)
MXFP8 = {"bits": 8, "group_size": 32, "mode": "mxfp8"}
UD_MXFP8 = ("q_proj", "k_proj", "v_proj", "in_proj_qkv", "in_proj_z")
UD_AFFINE8 = ("embed_tokens", "lm_head", "mlp.gate", "shared_expert_gate")


def ud_predicate(path: str, module: nn.Module) -> bool | dict[str, Any]:
    """The published checkpoint's mix: what is mxfp8, what is affine, what stays bfloat16."""
    if path.endswith(UD_AFFINE8):
        return True
    experts = ".switch_mlp." in path or ".shared_expert." in path
    return dict(MXFP8) if experts or path.endswith(UD_MXFP8) else False


def quantize(original: Path, folder: Path, scheme: str) -> None:
    """Convert `original` with mlx-lm, quantized by `scheme`: "mxfp8", "affine8" or "ud"."""
    network, config = load_model(original)
    if scheme == "mxfp8":  # mlx-lm's own choice keeps the gates affine where their width allows
        width = config["text_config"]["hidden_size"]
        predicate = None if width % 64 == 0 else lambda path, module: True
        quantized, config = quantize_model(
            network, config, 32, 8, mode="mxfp8", quant_predicate=predicate
        )
    else:
        predicate = ud_predicate if scheme == "ud" else None
        quantized, config = quantize_model(
            network, config, 64, 8, mode="affine", quant_predicate=predicate
        )
    save_model(folder, quantized)
    save_config(config, folder / "config.json")
    for name in BESIDE:
        shutil.copy(original / name, folder / name)


def logits(folder: Path, sequences: list[list[int]]) -> list[np.ndarray]:
    """mlx-lm's logits [T, vocab] float32 of each sequence, in one piece."""
    network, _ = load_model(folder)
    network.set_dtype(mx.float32)
    results = []
    for sequence in sequences:
        inputs = mx.array([sequence])
        # An mxfp8 embedding yields bfloat16, exactly; the sums after it must not be bfloat16.
        embedded = network.model.embed_tokens(inputs).astype(mx.float32)
        output = network(inputs, cache=network.make_cache(), input_embeddings=embedded)
        if output.dtype != mx.float32:
            raise RuntimeError(f"mlx-lm computed in {output.dtype}")
        results.append(np.array(output[0]))
    return results
