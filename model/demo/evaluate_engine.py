"""Scores the committed demo through the server's own network, token by token, as served:
`python -m model.demo.evaluate_engine --dialogues N`.

The same held-out cases and the same judgement as `evaluate`, which uses torch; this one shows the
quantized checkpoint as `mxserve serve` runs it. Needs the `train` extra for the case maker.
"""

import argparse
import json
from pathlib import Path

from model.loading import Model, load_model
from model.sampling import SamplingParams

from .evaluate import END, MARK, MODES, MOST_TOKENS, SEEDS, Case, cases_of, table, tally
from .tokenizer import load_tokenizer

CHUNK = 512


def answer(model: Model, prompt: list[int], stop: int) -> list[int]:
    """Greedy decoding with the compiled step."""
    generation = model.generation(SamplingParams(temperature=0.0))
    for start in range(0, len(prompt) - 1, CHUNK):
        generation.prefill(prompt[start : min(start + CHUNK, len(prompt) - 1)])
    tokens = [generation.step(prompt[-1])]
    while tokens[-1] != stop and len(tokens) < MOST_TOKENS:
        tokens.append(generation.step())
    return tokens


def right(case: Case, text: str) -> bool:
    """Whether the answer, past the thought, is exactly the expected text."""
    if case.mode == "thinking":
        _, mark, text = text.rpartition(MARK)
        if not mark:
            return False
    return text.endswith(END) and text.removesuffix(END) == case.answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialogues", type=int, default=500)
    parser.add_argument("--write", action="store_true", help="write evaluation.json and .md")
    options = parser.parse_args()
    model = load_model()
    tokenizer = load_tokenizer(model.folder)
    stop = tokenizer.encode(END).ids[0]
    cases, good = [], []
    for seed in range(options.dialogues):
        for mode in MODES:
            for case in cases_of(seed, mode, tokenizer):
                tokens = answer(model, case.prompt, stop)
                cases.append(case)
                good.append(right(case, tokenizer.decode(tokens, skip_special_tokens=False)))
    results = {"quantized, served": tally(cases, good)}
    print(table(results))
    if options.write:
        folder = Path(__file__).parent
        facts = {
            "dialogues": options.dialogues,
            "first_seed": SEEDS,
            "decoding": "greedy, by the engine",
            "results": results,
        }
        (folder / "evaluation.json").write_text(json.dumps(facts, indent=1) + "\n")
        head = (
            "# How good the demo model is\n\n"
            f"Written by `python -m model.demo.evaluate_engine`: {options.dialogues} held-out\n"
            "dialogues, each asked with thinking, without, and with the thought cut at a random\n"
            "token; greedy; an answer counts when it is exactly the expected text.\n\n"
        )
        (folder / "evaluation.md").write_text(head + table(results))


if __name__ == "__main__":
    main()
