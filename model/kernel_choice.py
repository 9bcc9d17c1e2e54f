"""Which fused kernels the user lets run: `auto`, `off`, or names.

Knows the names only, so that settings can be read without mlx.
"""

from __future__ import annotations

from typing import Literal

# The regions of a decode step that have a kernel: the fields of model.kernels.Kernels.
REGIONS = (
    "add_rms_norm",
    "router_top_k",
    "delta_step",
    "qk_norm_rope",
    "decode_attention",
    "expert_down",
    "vocabulary_top_k",
    "qk_norm_rope_several",
    "decode_attention_several",
    "delta_step_several",
)
# Those that only a step of several tokens has: one with guesses.
OF_GUESSES = ("qk_norm_rope_several", "decode_attention_several", "delta_step_several")

# `auto`: each kernel that agrees with its twin and is faster. Names: these, if they agree.
KernelChoice = Literal["auto", "off"] | tuple[str, ...]


def parse_choice(text: str) -> KernelChoice:
    """`auto`, `off`, or region names with commas between them. Raises ValueError."""
    if text in ("auto", "off"):
        return text
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in REGIONS]
    if unknown or not names:
        legal = ", ".join(REGIONS)
        raise ValueError(f"must be auto, off, or of {legal}; got {(unknown or [text])[0]!r}")
    return names
