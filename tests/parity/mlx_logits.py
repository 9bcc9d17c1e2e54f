"""mlx-lm's logits of checkpoint folders, in a process of its own:
`python -m tests.parity.mlx_logits TOKENS FOLDER ...` prints nothing and writes
FOLDER/mlx-lm-logits.npy, [tokens, vocab] float32, for the token ids of the JSON list TOKENS.
"""

import json
import sys
from pathlib import Path

import numpy as np

from tests.parity import mlx_reference


def main() -> None:
    tokens = json.loads(sys.argv[1])
    for folder in map(Path, sys.argv[2:]):
        (logits,) = mlx_reference.logits(folder, [tokens])
        np.save(folder / "mlx-lm-logits.npy", logits)


if __name__ == "__main__":
    main()
