"""Writes a checkpoint from a training state: `python -m model.demo.export STATE FOLDER`."""
# pyright: reportMissingImports=false
# (torch is an optional extra)

import argparse
from pathlib import Path

import torch

from .checkpoint import write_checkpoint
from .network import Config
from .tokenizer import load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "state", type=Path, help="state.pt of the run; tokenizer.json lies beside it"
    )
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.state.parent)
    write_checkpoint(options.folder, torch.load(options.state)["average"], Config(), tokenizer)


if __name__ == "__main__":
    main()
