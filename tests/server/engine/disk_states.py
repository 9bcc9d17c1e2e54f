"""Small real states, each a function of its tokens, so that a wrong one coming back shows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from model.state import KVSpan, RecurrentSnapshot
from server.engine.disk_tier import DiskTier
from server.engine.prompt_cache import PromptCache

LAYERS = 2
MODEL = "0123456789abcdef"


def _array(name: str, tokens: Sequence[int], shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    seed = hashlib.sha256(f"{name} {list(tokens)}".encode()).digest()
    values = np.random.default_rng(list(seed)).standard_normal(shape, np.float32)
    return mx.array(values).astype(dtype)


def span(tokens: Sequence[int], start: int) -> KVSpan:
    """The keys and values of tokens[start:]; a row depends on all tokens up to its own."""
    rows: dict[str, list[mx.array]] = {}
    for end in range(start + 1, len(tokens) + 1):
        for layer in range(LAYERS):
            for name in ("keys", "values"):
                row = _array(f"{name}{layer}", tokens[:end], (1, 2, 1, 4), mx.bfloat16)
                rows.setdefault(f"{name}{layer}", []).append(row)
    joined = {name: mx.concatenate(parts, axis=2) for name, parts in rows.items()}
    return KVSpan(
        tuple(joined[f"keys{layer}"] for layer in range(LAYERS)),
        tuple(joined[f"values{layer}"] for layer in range(LAYERS)),
        len(tokens) - start,
    )


def snapshot(tokens: Sequence[int]) -> RecurrentSnapshot:
    """The state after all of `tokens`."""
    return RecurrentSnapshot(
        tuple(_array(f"conv{i}", tokens, (1, 3, 4), mx.bfloat16) for i in range(LAYERS)),
        tuple(_array(f"state{i}", tokens, (1, 2, 3, 3), mx.float32) for i in range(LAYERS)),
        len(tokens),
    )


def insert(cache: PromptCache, tokens: Sequence[int], tenant: str = "") -> bool:
    start = cache.anchor(tokens, len(tokens), tenant)
    kept = span(tokens, start) if start < len(tokens) else None
    return cache.insert(tokens, start, kept, snapshot(tokens), tenant)


def reused(cache: PromptCache, tokens: Sequence[int], tenant: str = "") -> int:
    """How many tokens a prompt reuses; the states that came back are the right ones, to the bit."""
    hit = cache.lookup(tokens, tenant)
    if hit is None:
        return 0
    right, state = span(tokens[: hit.length], 0), snapshot(tokens[: hit.length])
    spans: list[KVSpan] = list(hit.spans)  # type: ignore[arg-type]
    found: RecurrentSnapshot = hit.snapshot  # type: ignore[assignment]
    for layer in range(LAYERS):
        for name in ("keys", "values"):
            joined = mx.concatenate([getattr(part, name)[layer] for part in spans], axis=2)
            assert _same(joined, getattr(right, name)[layer])
        for name in ("conv_tails", "recurrent"):
            assert _same(getattr(found, name)[layer], getattr(state, name)[layer])
    assert found.position == hit.length
    return hit.length


def _same(left: mx.array, right: mx.array) -> bool:
    return left.dtype == right.dtype and bool(mx.array_equal(left, right))


def open_cache(folder: Path, *, budget: int = 1 << 30, limit: int = 1 << 30) -> PromptCache:
    return PromptCache(budget, DiskTier.open(folder, MODEL, limit))


def files(folder: Path) -> list[Path]:
    """All cache files, in no order that means anything."""
    return sorted(folder.glob("*/*.safetensors"))
