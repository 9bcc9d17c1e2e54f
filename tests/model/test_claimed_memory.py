"""Memory and wired limits on Metal, with a stand-in for its device."""

from __future__ import annotations

import mlx.core as mx
import pytest

from model import device

WORKING_SET = 96 << 30


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What mlx was told on a machine with Metal."""
    told: dict[str, int] = {}
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    described = {"max_recommended_working_set_size": WORKING_SET, "memory_size": 128 << 30}
    monkeypatch.setattr(mx, "device_info", lambda _: described)
    monkeypatch.setattr(mx, "set_memory_limit", lambda limit: told.update(memory=limit))
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: told.update(wired=limit))
    return told


def test_metal_may_use_and_keep_the_working_set(limits: dict[str, int]) -> None:
    assert device.claim_memory() == f"memory limit {WORKING_SET >> 20} MiB, wired"
    assert limits == {"memory": WORKING_SET, "wired": WORKING_SET}


def test_where_nothing_may_be_wired_the_limit_stays(
    limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise ValueError("more than the system allows")

    monkeypatch.setattr(mx, "set_wired_limit", refuse)
    claimed = device.claim_memory()
    assert claimed is not None
    assert "not wired: more than the system allows" in claimed
    assert limits == {"memory": WORKING_SET}


def test_a_cpu_has_no_such_limits(limits: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
    assert device.claim_memory() is None
    assert limits == {}
