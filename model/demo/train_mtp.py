"""Trains the demo's MTP head behind the committed trunk, which stays as it is:
`python -m model.demo.train_mtp --minutes 22`.

The head learns what the trunk itself says, with and without its own mistakes behind it: the loss is
the cross entropy with the trunk's distributions, of the token after the next one and, from what the
head made of that, of the token after it.
"""
# pyright: reportMissingImports=false
# (torch is an optional extra)

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .chat_template import CHECKPOINT
from .config import Config
from .data.batches import Batch, by_length, stream
from .data.dialogue import Shape, make_dialogue
from .data.encoding import encode
from .mtp import MtpHead, committed_trunk, read_head, write_head
from .muon import Muon
from .network import Network
from .tokenizer import load_tokenizer

BATCH_TOKENS = 2048
MUON_RATE = 0.02
ADAM_RATE = 3e-3
WARMUP_STEPS = 20
DECAY_FROM = 0.35  # share of the time after which the rates fall
POOL = 400  # batches that are learned again and again; the trunk reads each once
DEPTH = 2  # tokens ahead of the trunk that are learned
BALANCE = 0.01  # weight of the router's balancing loss
AVERAGE = 0.98


def drafts(
    head: MtpHead, trunk: Network, batch: Batch, hidden: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each depth: the head's logits and the trunk's, [N, V] each, at the places where the
    trunk's next token is one that is learned; `hidden` is the trunk's."""
    ids, learned = batch.ids, batch.learned
    with torch.no_grad():
        embedded = trunk.model.embed_tokens(ids)
    draft = hidden
    for depth in range(1, DEPTH + 1):
        draft = head(draft[:, :-1], embedded[:, depth:])
        here = learned[:, depth + 1 :]
        with torch.no_grad():
            wanted = trunk.lm_head(hidden[:, depth:-1][here])
        yield trunk.lm_head(draft[:, :-1][here]), wanted


@torch.no_grad()
def accepted(head: MtpHead, trunk: Network, batches: list[Batch]) -> list[float]:
    """Share of learned places, by depth, where head and trunk agree on the likeliest token."""
    right, every = [0] * DEPTH, [0] * DEPTH
    for batch in batches:
        found = drafts(head.eval(), trunk, batch, trunk.hidden(batch.ids))
        for depth, (ours, wanted) in enumerate(found):
            right[depth] += int((ours.argmax(-1) == wanted.argmax(-1)).sum())
            every[depth] += len(wanted)
    head.train()
    return [a / max(b, 1) for a, b in zip(right, every, strict=True)]


class Run:
    """The head, its average over the steps, and the optimizers."""

    def __init__(self, trunk: Network, config: Config, resume: Path | None) -> None:
        self.trunk, self.head, self.average = trunk, MtpHead(config), MtpHead(config)
        if resume:
            read_head(self.head, resume)
        self.average.load_state_dict(self.head.state_dict())
        matrices: list[Tensor] = []
        self.rest: list[Tensor] = []
        for name, p in self.head.named_parameters():
            (self.rest if p.ndim < 2 or "gate.weight" in name else matrices).append(p)
        self.muon = Muon(matrices, lr=MUON_RATE, weight_decay=0.02)
        self.adam = torch.optim.AdamW(self.rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01)
        self.step = 0

    def learn(self, batch: Batch, hidden: Tensor, progress: float) -> float:
        """One step; returns the loss. In float32: many CPUs are slower in bfloat16."""
        factor = min(1.0, (1 - progress) / (1 - DECAY_FROM), (self.step + 1) / WARMUP_STEPS)
        self.muon.param_groups[0]["lr"] = MUON_RATE * factor
        self.adam.param_groups[0]["lr"] = ADAM_RATE * factor
        loss = BALANCE * torch.zeros(())
        for ours, wanted in drafts(self.head, self.trunk, batch, hidden):
            loss = loss + F.cross_entropy(ours, wanted.softmax(-1))
        balanced = loss + BALANCE * self.head.layers[0].mlp.balance  # type: ignore[union-attr]
        balanced.backward()
        torch.nn.utils.clip_grad_norm_(self.rest, 1.0)
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad()
        follow = 1 - min(AVERAGE, self.step / (self.step + 10))
        with torch.no_grad():
            pairs = zip(self.head.parameters(), self.average.parameters(), strict=True)
            for mine, averaged in pairs:
                averaged.lerp_(mine, follow)
        self.step += 1
        return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=22.0, help="wall time of the training")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="where the trunk is")
    parser.add_argument("--out", type=Path, help="another folder for the head, with an index")
    parser.add_argument("--resume", type=Path, help="a folder with a head to begin with")
    parser.add_argument("--threads", type=int, default=2, help="one where others work too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config, tokenizer = Config(), load_tokenizer(options.checkpoint)
    run = Run(committed_trunk(options.checkpoint, config), config, options.resume)
    shape = Shape(turns=5, long_system=0.0, tools=0.2, drill=0.2, cut=0.2)
    batches = stream("train", 5_000_000, lambda: shape, tokenizer, BATCH_TOKENS)
    pool: list[tuple[Batch, Tensor]] = []
    dialogues = [make_dialogue("heldout", 2_000_000 + i) for i in range(12)]
    heldout = by_length(encode(dialogues, tokenizer), BATCH_TOKENS)
    begin, progress = time.monotonic(), 0.0
    while progress < 1.0:
        if len(pool) < POOL:
            _, batch = next(batches)
            with torch.no_grad():
                pool.append((batch, run.trunk.hidden(batch.ids)))
        loss = run.learn(*pool[run.step % POOL], progress)
        elapsed = time.monotonic() - begin
        progress = elapsed / (60 * options.minutes)
        if run.step % 100 == 0 or progress >= 1.0:
            shares = [round(share, 4) for share in accepted(run.average, run.trunk, heldout)]
            minutes = round(elapsed / 60, 2)
            print({"step": run.step, "minutes": minutes, "loss": round(loss, 4)}, shares)
            write_head(options.out or options.checkpoint, run.average)


if __name__ == "__main__":
    main()
