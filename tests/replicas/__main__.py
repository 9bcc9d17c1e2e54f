"""`python -m tests.replicas [CLIENTS [REQUESTS]]`: the run of docs/replicas.md, and its figures."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.replicas.run import run, told

clients, requests = (int(text) for text in (sys.argv[1:] + ["16", "600"][len(sys.argv) - 1 :]))
with tempfile.TemporaryDirectory() as folder:
    result = run(Path(folder), clients=clients, requests=requests)
print(told(result))
for outcome in result.unexpected():
    print(outcome, file=sys.stderr)
sys.exit(bool(result.unexpected()))
