"""What quality is measured on where no trained unquantized weights are at hand.

The demo's bfloat16 weights are not part of the repository, only its MXFP8 checkpoint. Its stand-in
draws every weight anew within the cell that rounding to the stored one leaves open, so it is a
trained network whose weights lie on no grid. The other is a random network of the real width.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np

from model.config import QuantSpec
from model.convert.grids import e4m3
from model.convert.rounding import bf16_values, nearest
from model.loading import DEMO_FOLDER
from model.quality.streaming import open_checkpoint
from model.random_checkpoint import write_random_checkpoint
from model.random_values import GEOMETRIES

_TEXT_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
REAL_WIDTH = GEOMETRIES["full"] | {
    "num_hidden_layers": 4,
    "num_experts": 16,
    "vocab_size": 8_192,
}


def write_demo_stand_in(folder: Path, seed: int = 0) -> None:
    """Writes the demo in bfloat16, in MLX's layout, each quantized weight moved at random by at
    most half the distance to its neighbours on the grid it was rounded to."""
    folder.mkdir(parents=True)
    for name in _TEXT_FILES:
        shutil.copy(DEMO_FOLDER / name, folder / name)
    config = json.loads((DEMO_FOLDER / "config.json").read_text())
    kept = {k: v for k, v in config.items() if k not in ("quantization", "quantization_config")}
    kept["text_config"].pop("mtp_num_hidden_layers", None)  # its tensors stay behind
    (folder / "config.json").write_text(json.dumps(kept, indent=2) + "\n")
    demo = open_checkpoint(str(DEMO_FOLDER))
    stored = mx.load(str(DEMO_FOLDER / "model.safetensors"))
    assert isinstance(stored, dict)  # noqa: S101 - for the type checker
    random = np.random.default_rng(seed)
    arrays: dict[str, mx.array] = {}
    for name, tensor in demo.planned().items():
        values = np.array(demo.tensor(name))
        if tensor.spec is not None:
            scales = np.array(stored[f"language_model.{tensor.module}.scales"].astype(mx.float32))
            steps = _steps(values, scales, tensor.spec)
            values = values + steps * random.uniform(-0.5, 0.5, values.shape)
        values = bf16_values(nearest(values.astype(np.float32)))
        dtype = mx.float32 if tensor.kind == "float32" else mx.bfloat16
        arrays[f"language_model.{name}"] = mx.array(values).astype(dtype)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, {"format": "mlx"})


def _steps(values: np.ndarray, scales: np.ndarray, spec: QuantSpec) -> np.ndarray:
    """The distance of neighbours on the grid around each value; scales [..., groups]."""
    scales = np.repeat(scales.astype(np.float64), spec.group_size, axis=-1)
    if spec.mode == "affine":
        return np.abs(scales)
    grid = e4m3().values
    unit = np.exp2(scales - 127)
    places = np.minimum(np.searchsorted(grid, np.abs(values) / unit), len(grid) - 2)
    return unit * (grid[places + 1] - grid[places])


def write_real_width(folder: Path, seed: int = 0) -> None:
    """Writes a damped random network of the real hidden size, heads and experts' width in the
    original layout: 4 layers, 16 experts, 8,192 tokens."""
    write_random_checkpoint(folder, geometry=REAL_WIDTH, format="original", seed=seed)
