"""mlx-lm's decode step at the real geometry, against its launches counted by hand in its source."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from model.geometry import named
from model.launches.decode import Case, count_step

pytestmark = pytest.mark.parity

# One DeltaNet mixer: qkv, z, b, a and out (5 products); the convolution's input joined (2), the
# convolution, its silu; two norms and their factors (4), sigmoid, decay, recurrence, norm, gate.
DELTA_NET = 5 + 2 + 1 + 1 + 4 + 5
# One attention mixer: q, k, v and o (4); two norms, q's halves copied apart; two rotations; keys
# and values written into copies (4); attention in two passes from 1,024 keys on; gate (2), copied
# from its half.
ATTENTION = 4 + 3 + 2 + 4 + 2 + 3
# One block of experts: router, softmax, sort, gather, sum, division (6); three gathered products,
# each with indices of its own, two with their input copied, swiglu (9); weighted sum (2); the
# shared expert (5), gate (2), and the sum of both.
EXPERTS = 6 + 9 + 2 + 5 + 2 + 1


def test_mlx_lm_launches_what_a_reader_of_its_source_counts() -> None:
    command = [sys.executable, "-m", "model.launches.mlx_lm_step"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parts: Counter[str] = Counter()
    for part, _, count in json.loads(done.stdout)["launches"]:
        parts[part] += count
    assert parts["DeltaNet mixers"] == 30 * DELTA_NET
    assert parts["attention mixers"] == 10 * ATTENTION
    assert parts["experts"] == 40 * EXPERTS
    # Two norms and two sums a layer; three gathers and an unpacking of the embedding, the last
    # norm, the head, log-sum-exp, its difference, argmax.
    assert parts["norms, residuals, embedding"] == 40 * 4 + 4 + 5


def test_every_kernel_launches_far_less() -> None:
    assert count_step(named("qwen3.6-35b-a3b"), Case(kernels=True)).total() < 1889 / 3
