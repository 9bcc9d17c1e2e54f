"""Scores checkpoints of the demo on held-out dialogues, by the engine itself:
`python -m model.demo.evaluate [--model FOLDER ...] [--dialogues N] [--write]`.

Without --model it scores the committed checkpoint. Counts, tables and the written report are made
here; what is asked is in cases.py, how it is judged in judge.py.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from model.loading import load_model

from .cases import FIRST_SEED, MODES, Case
from .chat_template import CHECKPOINT
from .judge import Verdict, judge_dialogues
from .tokenizer import load_tokenizer

TARGET, SKILL_TARGET = 0.95, 0.85
DECODING = (
    "greedy: right at once where every expected token is the most likely one (teacher-forced "
    "prefill); where a thought strays from the expected one, decoded by the compiled step"
)

Tally = dict[str, Any]


def tally(judged: list[tuple[Case, Verdict]]) -> Tally:
    """Counts [right, all] by skill and mode, of answers and of whole dialogues."""
    skills: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    whole: dict[tuple[int, str], bool] = defaultdict(lambda: True)
    for case, verdict in judged:
        for mode in ("all", case.mode):
            for skill in ("all", case.skill):
                skills[skill][mode][0] += verdict.right
                skills[skill][mode][1] += 1
        whole[case.dialogue, case.mode] &= verdict.right
    open_answers = [verdict for _, verdict in judged if verdict.decoded]
    return {
        "answers": {skill: dict(modes) for skill, modes in sorted(skills.items())},
        "dialogues": [sum(whole.values()), len(whole)],
        "decoded": [sum(verdict.right for verdict in open_answers), len(open_answers)],
    }


def _share(right: int, count: int) -> str:
    return f"{right}/{count} ({right / count:.1%})" if count else "-"


def _missed(answers: dict[str, dict[str, list[int]]]) -> str:
    """The targets, and which skills miss theirs."""
    rates = {skill: modes["all"][0] / modes["all"][1] for skill, modes in answers.items()}
    overall = rates.pop("all")
    low = [f"{skill} {rate:.1%}" for skill, rate in rates.items() if rate < SKILL_TARGET]
    return (
        f"Targets: {TARGET:.0%} overall ({'reached' if overall >= TARGET else 'missed'}), "
        f"{SKILL_TARGET:.0%} in each skill ({'missed: ' + ', '.join(low) if low else 'reached'})."
    )


def table(results: dict[str, Tally]) -> str:
    """The figures as Markdown."""
    lines = []
    for name, result in results.items():
        lines += [f"## {name}", "", _missed(result["answers"])]
        lines += [
            f"Whole dialogues right: {_share(*result['dialogues'])}. "
            f"Answers decoded because the thought strayed: {result['decoded'][1]}, "
            f"of them right: {result['decoded'][0]}.",
            "",
        ]
        lines += [f"| skill | all | {' | '.join(MODES)} |", "|---|---|" + "---|" * len(MODES)]
        for skill, modes in result["answers"].items():
            row = [_share(*modes.get(mode, (0, 0))) for mode in ("all", *MODES)]
            lines.append(f"| {skill} | " + " | ".join(row) + " |")
        lines.append("")
    return "\n".join(lines)


def evaluate(folders: list[Path], dialogues: int, show: int = 0) -> dict[str, Tally]:
    """Scores each checkpoint folder on the same dialogues; `show` wrong answers are printed."""
    results: dict[str, Tally] = {}
    for folder in folders:
        model = load_model(folder)
        stored = "quantized" if model.config.quantization.default else "not quantized"
        name = f"{folder.resolve().name} ({stored}, computed in {_dtype(model.network.dtype)})"
        if name in results:
            raise ValueError(f"two folders are named {name}")
        judged = judge_dialogues(model, load_tokenizer(folder), dialogues, _Progress(dialogues))
        results[name] = tally(judged)
        for case, verdict in [pair for pair in judged if not pair[1].right][:show]:
            print(f"--- dialogue {case.dialogue}, {case.skill}, {case.mode}")
            print(f"  said {verdict.said!r}\n  not  {case.answer!r}")
    return results


def _dtype(dtype: object) -> str:
    return str(dtype).rpartition(".")[2]


class _Progress:
    """A line on stderr now and then."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._begin = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last > 20 or done == self._count:
            self._last = now
            took = now - self._begin
            print(f"{done} of {self._count} dialogues, {took:.0f} s", file=sys.stderr, flush=True)


def write_report(results: dict[str, Tally], dialogues: int, folder: Path) -> None:
    """evaluation.json and evaluation.md in `folder`."""
    seeds = [FIRST_SEED, FIRST_SEED + dialogues - 1]
    facts = {
        "dialogues": dialogues,
        "seeds": seeds,
        "modes": MODES,
        "decoding": DECODING,
        "results": results,
    }
    (folder / "evaluation.json").write_text(json.dumps(facts, indent=1) + "\n")
    head = (
        "# How good the demo model is\n\n"
        f"Written by `python -m model.demo.evaluate`. {dialogues} held-out dialogues (seeds "
        f"{seeds[0]} to {seeds[1]}, which the trainer never sees), each asked with thinking, "
        "without, and with the thought cut at a random token and closed. Every answer is asked for "
        "after the right past and counts when it is exactly the expected text; of a thought only "
        f"the answer after it counts. Decoding is {DECODING}.\n\n"
    )
    (folder / "evaluation.md").write_text(head + table(results))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Scores checkpoints of the demo on held-out dialogues."
    )
    parser.add_argument(
        "--model", type=Path, nargs="+", default=[CHECKPOINT], help="checkpoint folders"
    )
    parser.add_argument("--dialogues", type=int, default=500)
    parser.add_argument("--show", type=int, default=0, help="how many wrong answers to print")
    parser.add_argument(
        "--write", action="store_true", help="write evaluation.json and evaluation.md"
    )
    options = parser.parse_args()
    results = evaluate(options.model, options.dialogues, options.show)
    print(table(results))
    if options.write:
        write_report(results, options.dialogues, Path(__file__).parent)


if __name__ == "__main__":
    main()
