"""Trains the demo model end to end: `python -m model.demo.train --minutes 168`.

The schedule follows the wall clock, so that a run ends when it was told to on any machine:
constant learning rates, then a linear decay to zero. Every few minutes the averaged weights are
scored on held-out dialogues and saved; a run that was stopped continues with the same command.
At the end the checkpoint is written, quantized and in bf16, and both are evaluated.
"""
# pyright: reportMissingImports=false
# (torch is an optional extra)

import argparse
import json
import os
import signal
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from .chat_template import CHECKPOINT
from .config import Config
from .data.batches import Batch, by_length, stream
from .data.dialogue import Shape, make_dialogue
from .data.encoding import encode
from .evaluate import evaluate, table, write_report
from .export import export
from .muon import Muon
from .network import Network
from .tokenizer import load_tokenizer, train_tokenizer

BATCH_TOKENS = 5120
LEAST_TARGETS = 800  # a batch of long system texts has few targets; it must not shout
MUON_RATE = 0.02
ADAM_RATE = 3e-3
WARMUP_STEPS = 60
DECAY_FROM = 0.5  # share of the time after which the rates fall
BALANCE = 0.01  # weight of the router's balancing loss
AVERAGE = 0.99  # of the weights that are scored and saved
SAVE_SECONDS = 240.0


def curriculum(progress: float) -> Shape:
    """Short dialogues first; pages of system text later."""
    if progress < 0.06:
        return Shape(turns=3, long_system=0.0, tools=0.15)
    if progress < 0.2:
        return Shape(turns=6, long_system=0.02, paragraphs=8)
    if progress < 0.5:
        return Shape(turns=10, long_system=0.03, paragraphs=20, drill=0.5, cut=0.25)
    if progress < 0.85:
        return Shape(turns=10, long_system=0.05, paragraphs=30, drill=0.4, cut=0.25)
    return Shape(turns=10, long_system=0.06, paragraphs=30, drill=0.2, cut=0.25)


def rate(progress: float, step: int) -> float:
    """Factor of both learning rates."""
    fall = min(1.0, (1.0 - progress) / (1.0 - DECAY_FROM))
    return max(0.0, fall) * min(1.0, (step + 1) / WARMUP_STEPS)


def loss_of(network: Network, batch: Batch) -> tuple[Tensor, int]:
    """Summed cross entropy of the targets, and how many there are."""
    learned = batch.learned[:, 1:]
    hidden = network.hidden(batch.ids[:, :-1])[learned]
    logits = network.lm_head(hidden).float()
    return F.cross_entropy(logits, batch.ids[:, 1:][learned], reduction="sum"), len(hidden)


@torch.no_grad()
def score(network: Network, tokenizer: Tokenizer, count: int) -> dict[str, tuple[int, int]]:
    """(right, all) answers per skill on held-out dialogues, each judged with the right past.

    An answer counts when every token of it, thought included, is the most likely one: then greedy
    decoding gives exactly this text. It is a lower bound where another thought would do as well.
    """
    network.eval()
    result: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    examples = encode([make_dialogue("heldout", 1_000_000 + i) for i in range(count)], tokenizer)
    for batch in by_length(examples, BATCH_TOKENS):
        best = network(batch.ids[:, :-1]).argmax(-1)
        right = best == batch.ids[:, 1:]
        for row, example in enumerate(batch.examples):
            for start, end, skill in example.answers:
                result[skill][0] += bool(right[row, start - 1 : end - 1].all())
                result[skill][1] += 1
    network.train()
    return {skill: (a, b) for skill, (a, b) in sorted(result.items())}


class Run:
    """One training run: networks, optimizers, and the file that holds them between sessions."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.path = folder / "state.pt"
        self.network, self.average = Network(Config()), Network(Config())
        self.average.load_state_dict(self.network.state_dict())
        matrices: list[Tensor] = []
        self.rest: list[Tensor] = []
        odd = ("embed", "lm_head", "conv1d", "in_proj_a", "in_proj_b", "gate.weight")
        for name, p in self.network.named_parameters():
            small = p.ndim < 2 or any(part in name for part in odd)
            (self.rest if small else matrices).append(p)
        self.muon = Muon(matrices, lr=MUON_RATE, weight_decay=0.02)
        self.adam = torch.optim.AdamW(
            self.rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self.step, self.seed, self.elapsed = 0, 0, 0.0
        if self.path.exists():
            self._restore(torch.load(self.path))

    def _parts(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "average": self.average,
            "muon": self.muon,
            "adam": self.adam,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step, self.seed, self.elapsed = state["step"], state["seed"], state["elapsed"]

    def save(self) -> None:
        """Writes the whole file or nothing."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"step": self.step, "seed": self.seed, "elapsed": self.elapsed}
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.path)

    def learn(self, batch: Batch, factor: float) -> tuple[float, int]:
        """One step; returns the summed loss and the number of targets."""
        self.muon.param_groups[0]["lr"] = MUON_RATE * factor
        self.adam.param_groups[0]["lr"] = ADAM_RATE * factor
        with torch.autocast("cpu", torch.bfloat16):
            total, count = loss_of(self.network, batch)
            loss = total / max(count, LEAST_TARGETS) + BALANCE * self.network.balance()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.rest, 1.0)
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad()
        follow = 1 - min(AVERAGE, self.step / (self.step + 10))
        with torch.no_grad():
            for mine, averaged in zip(
                self.network.parameters(), self.average.parameters(), strict=True
            ):
                averaged.lerp_(mine, follow)
        self.step += 1
        return total.item(), count


def train(run: Run, minutes: float, tokenizer: Tokenizer, log: Path) -> bool:
    """Trains until `minutes` of wall time are spent, earlier parts of the run counted.

    SIGTERM saves and ends early. Returns whether the run is complete.
    """
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))

    def note(**facts: Any) -> None:
        print(facts, flush=True)
        with log.open("a") as file:
            file.write(json.dumps(facts) + "\n")

    started = time.monotonic() - run.elapsed
    saved = marked = time.monotonic()
    loss, targets, tokens = 0.0, 0, 0
    progress = run.elapsed / (60 * minutes)
    batches = stream("train", run.seed, lambda: curriculum(progress), tokenizer, BATCH_TOKENS)
    while progress < 1.0 and not stopped:
        run.seed, batch = next(batches)
        factor = rate(progress, run.step)
        total, count = run.learn(batch, factor)
        loss, targets, tokens = loss + total, targets + count, tokens + batch.ids.numel()
        now = time.monotonic()
        run.elapsed = now - started
        progress = run.elapsed / (60 * minutes)
        if run.step % 50 == 0:
            note(
                step=run.step,
                minutes=round(run.elapsed / 60, 2),
                loss=round(loss / targets, 4),
                balance=round(run.network.balance().item(), 3),
                rate=round(factor, 3),
                tokens_per_second=round(tokens / (now - marked)),
            )
            marked, loss, targets, tokens = now, 0.0, 0, 0
        if now - saved > SAVE_SECONDS or progress >= 1.0 or stopped:
            saved = now
            run.save()
            skills = score(run.average, tokenizer, 120)
            right, every = (sum(x) for x in zip(*skills.values(), strict=True))
            note(
                step=run.step,
                right=round(right / every, 4),
                **{skill: f"{a}/{b}" for skill, (a, b) in skills.items()},
            )
    return progress >= 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=168.0, help="wall time of the training")
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="the run's state")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="where the result goes")
    parser.add_argument("--dialogues", type=int, default=500, help="how many to evaluate on")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    if not (options.work / "tokenizer.json").exists():
        train_tokenizer().save(str(options.work / "tokenizer.json"))
    tokenizer = load_tokenizer(options.work)
    run = Run(options.work)
    if not train(run, options.minutes, tokenizer, options.work / "log.jsonl"):
        return
    weights, bf16 = run.average.state_dict(), options.work / "bf16"
    export(options.checkpoint, weights, tokenizer)
    export(bf16, weights, tokenizer, quantized=False)
    results = evaluate([options.checkpoint, bf16], options.dialogues)
    print(table(results))
    write_report(results, options.dialogues, options.checkpoint.parent)


if __name__ == "__main__":
    main()
