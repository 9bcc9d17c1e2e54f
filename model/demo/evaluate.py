"""Scores the demo on held-out dialogues: `python -m model.demo.evaluate`.

Every answer of every dialogue is asked for on its own, after the right past, decoded greedily and
compared with the expected text, character for character. Each dialogue is asked three times: with
thinking, without, and with the thought cut at a random token and closed as a spent budget does.
With thinking, only the answer counts, not the thought.
"""
# pyright: reportMissingImports=false
# (torch is an optional extra)

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from model.thinking import CLOSING_TEXT

from .chat_template import CHECKPOINT, render
from .data.batches import by_length
from .data.dialogue import make_dialogue
from .data.draw import Draw
from .data.encoding import Example
from .network import Config, Network
from .tokenizer import load_tokenizer

SEEDS = 2_000_000  # of the held-out side; training scores itself on other seeds
MODES = ("thinking", "no thinking", "cut thinking")
MARK = "\n</think>\n\n"
END = "<|im_end|>"
MOST_TOKENS = 320


@dataclass
class Case:
    """One answer to give: prompt and expected token ids, what counts, and where it belongs."""

    prompt: list[int]
    expected: list[int]
    answer: str
    skill: str
    mode: str
    dialogue: int
    text: str  # the prompt, for reports


def cases_of(seed: int, mode: str, tokenizer: Tokenizer) -> list[Case]:
    """The answers of one held-out dialogue."""
    thinking = mode != "no thinking"
    dialogue = make_dialogue("heldout", SEEDS + seed, thinking=thinking)
    draw = Draw("heldout", SEEDS + seed)
    options: dict[str, Any] = {
        "tools": dialogue.tools,
        "preserve_thinking": dialogue.preserve_thinking,
    }
    cases = []

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    for i, message in enumerate(dialogue.messages):
        if message["role"] != "assistant":
            continue
        before = dialogue.messages[:i]
        prompt = render(before, **options, add_generation_prompt=True, enable_thinking=thinking)
        whole = render([*before, message], **options)
        completion = whole[len(prompt) :].removesuffix("\n")
        prompt_ids = ids(prompt)
        thought, _, answer = completion.rpartition(MARK) if thinking else ("", "", completion)
        if mode == "cut thinking":
            thought_ids = ids(thought)
            prompt_ids += thought_ids[: draw.integer(0, len(thought_ids) - 1)] + ids(CLOSING_TEXT)
            completion = answer
        expected = ids(completion)
        cases.append(
            Case(
                prompt_ids, expected, answer.removesuffix(END), message["skill"], mode, seed, prompt
            )
        )
    return cases


@torch.no_grad()
def generate(network: Network, prompt: list[int], stop: int) -> list[int]:
    """Greedy decoding by whole forwards: slow, and nothing in it can go wrong."""
    ids = list(prompt)
    while len(ids) < len(prompt) + MOST_TOKENS:
        hidden = network.hidden(torch.tensor([ids]))[:, -1]
        ids.append(int(network.lm_head(hidden).argmax()))
        if ids[-1] == stop:
            break
    return ids[len(prompt) :]


@torch.no_grad()
def judge(
    network: Network, tokenizer: Tokenizer, cases: list[Case]
) -> tuple[list[bool], list[str]]:
    """Whether each case is answered exactly, and what was said where it was not.

    Where every expected token is the most likely one after those before it, greedy decoding gives
    the expected text. Where the first other token lies in the answer, it gives another text. Only
    where it lies in the thought is the answer still open, and is decoded token by token.
    """
    network.eval()
    stop = tokenizer.encode(END).ids[0]
    examples = []
    for index, case in enumerate(cases):
        ids = case.prompt + case.expected
        span = (len(case.prompt), len(ids), str(index))
        examples.append(Example(ids, [False] * len(ids), [span]))
    right, said = [False] * len(cases), [""] * len(cases)
    for batch in by_length(examples, 8192):
        hidden = network.hidden(batch.ids[:, :-1])
        for row, example in enumerate(batch.examples):
            start, end, index = example.answers[0]
            best = network.lm_head(hidden[row, start - 1 : end - 1]).argmax(-1)
            wrong = (best != batch.ids[row, start:end]).nonzero().flatten().tolist()
            right[int(index)] = not wrong
            if wrong:
                said[int(index)] = tokenizer.decode(
                    [*cases[int(index)].expected[: wrong[0]], int(best[wrong[0]])],
                    skip_special_tokens=False,
                )
    for index, case in enumerate(cases):
        if right[index] or case.mode != "thinking" or MARK in said[index]:
            continue
        text = tokenizer.decode(generate(network, case.prompt, stop), skip_special_tokens=False)
        _, mark, rest = text.rpartition(MARK)
        complete = text.endswith(END) and bool(mark)
        right[index] = complete and rest.removesuffix(END) == case.answer
        said[index] = "" if right[index] else text
    return right, said


def tally(cases: list[Case], right: list[bool]) -> dict[str, Any]:
    """Counts by skill and mode, of answers and of whole dialogues."""
    skills: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    whole: dict[tuple[int, str], bool] = defaultdict(lambda: True)
    for case, good in zip(cases, right, strict=True):
        for mode in (case.mode, "all"):
            for skill in (case.skill, "all"):
                skills[skill][mode][0] += good
                skills[skill][mode][1] += 1
        whole[case.dialogue, case.mode] &= good
    return {
        "answers": {skill: dict(modes) for skill, modes in sorted(skills.items())},
        "dialogues": [sum(whole.values()), len(whole)],
    }


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = []
    for name, result in results.items():
        a, b = result["dialogues"]
        lines += [f"## {name}", "", f"Whole dialogues right: {a} of {b} ({a / b:.1%}).", ""]
        lines += [f"| skill | all | {' | '.join(MODES)} |", "|---|---|" + "---|" * len(MODES)]
        for skill, modes in result["answers"].items():
            row = []
            for mode in ("all", *MODES):
                a, b = modes.get(mode, (0, 0))
                row.append(f"{a}/{b} ({a / b:.1%})" if b else "-")
            lines.append(f"| {skill} | " + " | ".join(row) + " |")
        lines.append("")
    return "\n".join(lines)


def weights_of(source: Path) -> dict[str, torch.Tensor]:
    """A checkpoint folder's weights dequantized, or a training state's average rounded to bf16."""
    if source.is_dir():
        from .checkpoint import dequantized

        return dequantized(source)
    state = torch.load(source)["average"]
    return {name: tensor.bfloat16().float() for name, tensor in state.items()}


def evaluate(
    sources: dict[str, Path],
    tokenizer: Tokenizer,
    dialogues: int,
    modes: tuple[str, ...] = MODES,
    show: int = 0,
) -> dict[str, Any]:
    """Scores each of `sources` on the same dialogues."""
    cases = [
        c for seed in range(dialogues) for mode in modes for c in cases_of(seed, mode, tokenizer)
    ]
    results = {}
    for name, source in sources.items():
        network = Network(Config())
        network.load_state_dict(weights_of(source))
        right, said = judge(network, tokenizer, cases)
        results[name] = tally(cases, right)
        wrong = [(c, s) for c, s, good in zip(cases, said, right, strict=True) if not good]
        for case, text in wrong[:show]:
            print(f"--- {case.skill}, {case.mode}: {case.text[-300:]!r}")
            print(f"  said {text!r}\n  not  {case.answer!r}")
    return results


def write_report(results: dict[str, Any], dialogues: int, folder: Path) -> None:
    facts = {"dialogues": dialogues, "first_seed": SEEDS, "decoding": "greedy", "results": results}
    (folder / "evaluation.json").write_text(json.dumps(facts, indent=1) + "\n")
    head = (
        "# How good the demo model is\n\n"
        f"Written by `python -m model.demo.evaluate`: {dialogues} held-out\n"
        "dialogues, each asked with thinking, without, and with the thought cut at a\n"
        "random token; greedy; an answer counts when it is exactly the expected text.\n\n"
    )
    (folder / "evaluation.md").write_text(head + table(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialogues", type=int, default=500)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument(
        "--state", type=Path, help="state.pt of a training run, for the bf16 figures"
    )
    parser.add_argument("--show", type=int, default=0, help="how many wrong answers to print")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--write", action="store_true", help="write evaluation.json and evaluation.md"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sources = {"bf16": options.state} if options.state else {}
    sources["quantized"] = options.checkpoint
    tokenizer = load_tokenizer(options.checkpoint)
    results = evaluate(sources, tokenizer, options.dialogues, show=options.show)
    print(table(results))
    if options.write:
        write_report(results, options.dialogues, Path(__file__).parent)


if __name__ == "__main__":
    main()
