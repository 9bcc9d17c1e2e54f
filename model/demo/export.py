"""Writes a checkpoint from a training state:
`python -m model.demo.export STATE FOLDER [--bf16]`.
"""
# pyright: reportMissingImports=false
# (torch is an optional extra)

import argparse
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import torch
from tokenizers import Tokenizer
from torch import Tensor

from .checkpoint import write_checkpoint
from .config import Config
from .tokenizer import load_tokenizer


def export(
    folder: Path, state: Mapping[str, Tensor], tokenizer: Tokenizer, *, quantized: bool = True
) -> None:
    """Writes torch weights of the demo's size as a checkpoint folder, quantized or in bf16."""
    arrays = {name: mx.array(tensor.float().numpy()) for name, tensor in state.items()}
    write_checkpoint(folder, arrays, Config(), tokenizer, quantized=quantized)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "state", type=Path, help="state.pt of the run; tokenizer.json lies beside it"
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bf16", action="store_true", help="leave the weights unquantized")
    options = parser.parse_args()
    weights = torch.load(options.state)["average"]
    tokenizer = load_tokenizer(options.state.parent)
    export(options.folder, weights, tokenizer, quantized=not options.bf16)


if __name__ == "__main__":
    main()
