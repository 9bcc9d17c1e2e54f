"""The prompt cache that suits this model and machine: its budget, its disk tier.

Knows settings and figures of memory; how the cache works is its own affair.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from server.engine.disk_tier import DiskTier
from server.engine.ports import Model
from server.engine.prompt_cache import PromptCache

log = logging.getLogger(__name__)

# Shares of the memory that is left once the model is loaded. The rest is for running requests; a
# CPU's memory is everybody's.
GPU_SHARE = 0.4
CPU_SHARE = 0.1
LEAST, MOST = 256 << 20, 32 << 30


class CacheSettings(Protocol):
    """The part of EngineSettings that is meant here."""

    @property
    def prompt_cache_bytes(self) -> int | None: ...
    @property
    def disk_cache(self) -> Path | None: ...
    @property
    def disk_cache_bytes(self) -> int: ...


def open_cache(settings: CacheSettings, model: Model) -> PromptCache:
    """Called in the worker thread, which owns the cache from then on."""
    budget = settings.prompt_cache_bytes
    if budget is None:
        memory = model.memory()
        left = max(0, memory.limit_bytes - memory.active_bytes)
        share = GPU_SHARE if model.on_gpu else CPU_SHARE
        budget = max(LEAST, min(MOST, int(left * share)))
    disk = None
    if budget and settings.disk_cache is not None and settings.disk_cache_bytes:
        disk = DiskTier.open(
            settings.disk_cache,
            model.fingerprint,
            settings.disk_cache_bytes,
            label=model.name,
        )
    log.info("prompt cache: %.1f GiB of memory", budget / (1 << 30))
    return PromptCache(budget, disk)
