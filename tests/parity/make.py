"""Write the parity checkpoints and what the two other implementations compute from them.

    python -m tests.parity.make FOLDER           every live checkpoint, all positions
    python -m tests.parity.make --golden tests/golden  the committed one, selected positions

Run apart from the tests: torch and the BLAS that `model` loads stay in different processes.
For each checkpoint NAME: NAME/original, NAME/SCHEME and NAME/references.npz, which holds
`tokens.I`, `positions.I` and the float32 logits `SOURCE.I` [positions, vocab] of sequence I, where
SOURCE is `transformers`, `mlx-lm` or `mlx-lm.SCHEME`. The golden checkpoint also gets
`continuations.json`: tokens sampled from transformers' logits by tests.parity.sampling_reference.
"""

# torch, transformers and mlx-lm are not in the environment that is type-checked.
# pyright: reportMissingImports=false

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.parity import mlx_reference, tiny
from tests.parity.sampling_reference import NearTieError, SamplerReference

DECODED = 64
CONTINUED = 40
PROMPT = 24
SAMPLERS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9, "top_k": 20},
    {"temperature": 1.0},
    {"temperature": 1.2, "min_p": 0.05},
    {
        "temperature": 0.8,
        "top_p": 0.95,
        "presence_penalty": 1.5,
        "frequency_penalty": 0.25,
        "repetition_penalty": 1.2,
    },
)


def transformers_logits(network: torch.nn.Module, sequences: list[list[int]]) -> list[np.ndarray]:
    """transformers' logits [T, vocab] float32 of each sequence, in one piece."""
    with torch.no_grad():
        outputs = [network(torch.tensor([s]), use_cache=False).logits[0] for s in sequences]
    return [output.float().numpy() for output in outputs]


def make(model: tiny.TinyModel, folder: Path, *, every: int) -> None:
    """Write one checkpoint in all its forms; keep one position in `every`, and the last 64."""
    sequences = tiny.tokens(model)
    network = tiny.build(model)
    original = folder / "original"
    tiny.write_original(model, network, original, torch.bfloat16)
    sources = {"transformers": transformers_logits(network, sequences)}
    with tempfile.TemporaryDirectory() as scratch:
        # mlx-lm adds one to the norms in the file's dtype; in bfloat16 that would round them.
        exact = Path(scratch) / "float32"
        tiny.write_original(model, network, exact, torch.float32)
        sources["mlx-lm"] = mlx_reference.logits(exact, sequences)
    for scheme in model.schemes:
        mlx_reference.quantize(original, folder / scheme, scheme)
        sources[f"mlx-lm.{scheme}"] = mlx_reference.logits(folder / scheme, sequences)

    content: dict[str, np.ndarray] = {}
    for i, sequence in enumerate(sequences):
        length = len(sequence)
        positions = np.array([p for p in range(length) if p % every == 0 or p >= length - DECODED])
        content[f"tokens.{i}"] = np.array(sequence, np.int32)
        content[f"positions.{i}"] = positions.astype(np.int32)
        for source, results in sources.items():
            content[f"{source}.{i}"] = results[i][positions]
    np.savez_compressed(folder / "references.npz", allow_pickle=False, **content)
    report(sources)
    if model is tiny.GOLDEN:
        drawn = continuations(network, sequences[0][:PROMPT])
        lines = ",\n ".join(json.dumps(one) for one in drawn)
        (folder / "continuations.json").write_text(f"[{lines}]\n")


def continuations(network: torch.nn.Module, prompt: list[int]) -> list[dict[str, Any]]:
    """A continuation of `prompt` per sampler, with the first seed that meets no near tie."""
    return [
        {"sampling": {**sampler, "seed": seed}, "prompt": prompt, "tokens": drawn}
        for sampler in SAMPLERS
        for seed, drawn in [_continue(network, prompt, sampler)]
    ]


def _continue(
    network: torch.nn.Module, prompt: list[int], sampler: dict[str, Any]
) -> tuple[int, list[int]]:
    for seed in range(1, 100):
        reference = SamplerReference(prompt, **sampler, seed=seed)
        try:
            fed, cache = prompt, None
            for _ in range(CONTINUED):
                with torch.no_grad():
                    output = network(torch.tensor([fed]), past_key_values=cache, use_cache=True)
                fed, cache = [reference.draw(output.logits[0, -1].numpy())], output.past_key_values
        except NearTieError:
            continue
        return seed, reference.drawn
    raise NearTieError(f"no seed without one for {sampler}")


def report(sources: dict[str, list[np.ndarray]]) -> None:
    """Print how far each source is from transformers."""
    for source, results in sources.items():
        pairs = zip(results, sources["transformers"], strict=True)
        largest = max(float(np.abs(a - b).max()) for a, b in pairs)
        print(f"  {source}: max |difference| from transformers {largest:.2e}, ", end="")
        print(f"standard deviation {results[0].std():.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write parity checkpoints and references.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--golden", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the sums are small, and threads that wait for each other are slow
    models = (tiny.GOLDEN,) if arguments.golden else tiny.LIVE
    for model in models:
        print(model.name, flush=True)
        target = arguments.folder / model.name
        if target.exists():
            shutil.rmtree(target)
        make(model, target, every=8 if arguments.golden else 1)


if __name__ == "__main__":
    main()
