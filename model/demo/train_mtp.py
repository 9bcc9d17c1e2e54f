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
from .mtp import MtpHead, committed_trunk, write_head
from .muon import Muon
from .network import Network
from .tokenizer import load_tokenizer

BATCH_TOKENS = 1536
MUON_RATE = 0.02
ADAM_RATE = 3e-3
WARMUP_STEPS = 20
DECAY_FROM = 0.4  # share of the time after which the rates fall
POOL = 96  # batches that are learned again and again; the trunk reads each once
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=22.0, help="wall time of the training")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="where the trunk is")
    parser.add_argument("--out", type=Path, help="another folder for the head, with an index")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config, tokenizer = Config(), load_tokenizer(options.checkpoint)
    trunk, head, average = committed_trunk(options.checkpoint, config), MtpHead(config), None
    matrices = [p for n, p in head.named_parameters() if p.ndim > 1 and "gate.weight" not in n]
    rest = [p for n, p in head.named_parameters() if p.ndim < 2 or "gate.weight" in n]
    muon = Muon(matrices, lr=MUON_RATE, weight_decay=0.02)
    adam = torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    average = MtpHead(config)
    average.load_state_dict(head.state_dict())
    shape = Shape(turns=5, long_system=0.0, tools=0.2, drill=0.2, cut=0.2)
    batches = stream("train", 5_000_000, lambda: shape, tokenizer, BATCH_TOKENS)
    pool: list[tuple[Batch, Tensor]] = []
    dialogues = [make_dialogue("heldout", 2_000_000 + i) for i in range(12)]
    heldout = by_length(encode(dialogues, tokenizer), BATCH_TOKENS)
    begin, step, progress = time.monotonic(), 0, 0.0
    while progress < 1.0:
        if len(pool) < POOL:
            _, batch = next(batches)
            with torch.no_grad():
                pool.append((batch, trunk.hidden(batch.ids)))
        batch, hidden = pool[step % POOL]
        factor = min(1.0, (1 - progress) / (1 - DECAY_FROM), (step + 1) / WARMUP_STEPS)
        muon.param_groups[0]["lr"], adam.param_groups[0]["lr"] = (
            MUON_RATE * factor,
            ADAM_RATE * factor,
        )
        loss = torch.zeros(())
        with torch.autocast("cpu", torch.bfloat16):
            for ours, wanted in drafts(head, trunk, batch, hidden):
                loss = loss + F.cross_entropy(ours.float(), wanted.float().softmax(-1))
        loss = loss + BALANCE * head.layers[0].mlp.balance  # type: ignore[union-attr]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad()
        follow = 1 - min(AVERAGE, step / (step + 10))
        with torch.no_grad():
            for mine, averaged in zip(head.parameters(), average.parameters(), strict=True):
                averaged.lerp_(mine, follow)
        step += 1
        elapsed = time.monotonic() - begin
        progress = elapsed / (60 * options.minutes)
        if step % 100 == 0 or progress >= 1.0:
            shares = [round(share, 4) for share in accepted(average, trunk, heldout)]
            minutes = round(elapsed / 60, 2)
            print({"step": step, "minutes": minutes, "loss": round(loss.item(), 4)}, shares)
            write_head(options.out or options.checkpoint, average)


if __name__ == "__main__":
    main()
