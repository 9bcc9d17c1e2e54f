"""The compiled step that guesses and verifies: the MTP head's guesses, the network over the pending
token and all of them, and the row's own sampler at every place.

A guess is accepted exactly where it is the token that the sampler draws there: the noise of a draw
belongs to its token and its place, so what is said does not depend on what was guessed. The step
returns the recurrent state after every place (nothing runs again where a guess was wrong), and
begins by taking the one that counts.

Shapes: B rows, D guesses, T = D + 1 tokens fed, H hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from model.kernels import VocabularyTopK
from model.mtp import MtpHead
from model.mtp_places import at, choose, numbers, stacked
from model.sampler import BY_TOKEN, Arrays, Variant, count_fed, sample
from model.scores import Scores, scores
from model.state import LayerStates

# Convolution tails and recurrent matrices of each DeltaNet layer, after each place: [B, P, ...].
Captured = list[list[mx.array]]


@dataclass(frozen=True, slots=True)
class Fed:
    """What a step is told of its rows. given int32 [B, T + 1]: tokens to feed in place of what was
    sampled and guessed, -1 for none, and -1 behind the last; generated int32 [B, T]: 0 where one
    belongs to the prompt; fixed int32 [B]: how many of the fed tokens count, 0: the pending one and
    what is accepted."""

    given: mx.array
    generated: mx.array
    fixed: mx.array


@dataclass(frozen=True, slots=True)
class Outcome:
    """tails: keys and values of all layers; captured: see above; carry and moving: for the next
    step; fed, samples int32 [B, T] and last int32 [B]: what was fed, what was drawn after it, the
    place of the last token that counts; keys uint32 [B, T, 2]: the sampler's after each place;
    found: the scores of `samples`, row by row."""

    tails: list[list[mx.array]]
    captured: Captured
    carry: Arrays
    moving: Arrays
    fed: mx.array
    samples: mx.array
    last: mx.array
    keys: mx.array | None
    found: Scores | None


class MtpSteps:
    """Speculative steps of `head` behind its network. The likeliest token is guessed, after
    penalties; with `coupled` one drawn with the noise that the sampler will use there, which was
    right less often on the demo at every temperature tried (docs/mtp.md)."""

    def __init__(self, head: MtpHead, *, compiled: bool, coupled: bool = False):
        self.head = head
        self.compiled = compiled
        self.coupled = coupled
        self._functions: dict[object, Any] = {}

    def run(
        self,
        variant: Variant,
        layers: LayerStates,
        captured: Captured,
        body_lengths: mx.array,
        carry: Arrays,
        constants: Arrays,
        moving: Arrays,
        fed: Fed,
        *,
        scored: bool,
    ) -> Outcome:
        """One step; nothing is evaluated yet. `layers` has the bodies and tails. carry: `last` and
        `tail_lengths` int32 [B] (tokens in the tail, of those that count), `hidden` [B, T, H] and
        `nexts` int32 [B, T] (the places that the head has not seen, `pairs` int32 [B] of them, and
        the tokens after them), `head_keys`, `head_values`, `head_counts`, `head_offsets`."""
        bodies, moved = layers.bodies(), layers.moving()[:2]
        rows, width = fed.generated.shape
        places = captured[0][0].shape[1] if captured[0] else 0
        key = variant, scored, self.coupled, rows, width, places
        capacity = bodies[0][0].shape[2] if bodies[0] else 0
        key = *key, capacity, carry["head_keys"].shape[2]
        if key not in self._functions:
            step = self._step(variant, scored=scored)
            self._functions[key] = mx.compile(step) if self.compiled else step
        outputs = self._functions[key](
            bodies,
            moved,
            captured,
            body_lengths,
            carry,
            constants,
            moving,
            [fed.given, fed.generated, fed.fixed],
        )
        tails, captured, carry, moving, (tokens, samples, last), keys, found = outputs
        return Outcome(
            tails,
            captured,
            carry,
            moving,
            tokens,
            samples,
            last,
            keys[0] if keys else None,
            tuple(found) if found else None,
        )

    def _step(self, variant: Variant, *, scored: bool) -> Any:
        head, network = self.head, self.head.network
        guessing = variant if self.coupled else variant._replace(greedy=True, mixed=False)

        def step(
            bodies: list[list[mx.array]],
            tails: list[list[mx.array]],
            captured: Captured,
            body_lengths: mx.array,
            carry: Arrays,
            constants: Arrays,
            moving: Arrays,
            fed: list[mx.array],
        ) -> tuple[Any, ...]:
            given, generated, fixed = fed
            following, given = given[:, 1:], given[:, :-1]
            width = given.shape[1]
            states = LayerStates.join(bodies, [*tails, *captured])
            came_from = carry["last"]
            keys = _keys(moving, width)
            tokens, carry = _guesses(head, guessing, carry, constants, moving, keys, given, fed[1])
            tokens = mx.where(given >= 0, given, tokens)
            hidden, after = network.several(
                tokens, states, came_from, body_lengths, carry["tail_lengths"]
            )
            normed = network.normed(hidden)
            logits = network.head(normed).flatten(0, 1)
            counts = _counts(moving, tokens, generated)
            top_k = network.kernels.vocabulary_top_k
            drawn = _sampled(logits, variant, constants, keys, counts, width, top_k)
            samples = drawn.reshape(tokens.shape)
            last = mx.where(fixed > 0, fixed - 1, _accepted(tokens, samples))
            carry = carry | {
                "last": last,
                "tail_lengths": carry["tail_lengths"] + last + 1,
                "hidden": normed,
                # What was accepted is what was drawn; what comes after the last is not seen.
                "nexts": mx.where(following >= 0, following, samples),
                "pairs": last + 1,
            }
            moved = dict(moving)
            each = [stacked(keys[1:])] if keys else []
            if keys:
                moved["key"] = at(each[0], last)
            if counts:
                moved["counts"] = choose(counts, last)
            found = list(scores(logits, drawn)) if scored else []
            arrays = after.moving()
            return (
                arrays[:2],
                arrays[2:],
                carry,
                moved,
                [tokens, samples, last],
                each,
                found,
            )

        return step


def _guesses(
    head: MtpHead,
    variant: Variant,
    carry: Arrays,
    constants: Arrays,
    moving: Arrays,
    keys: list[mx.array],
    given: mx.array,
    generated: mx.array,
) -> tuple[mx.array, Arrays]:
    """The pending token and the guesses after it [B, T], and the carry with what the head saw."""
    width, last = given.shape[1], carry["last"]
    # What is given in place of the pending token is what came after the last place.
    instead = (numbers(carry["nexts"].shape[1]) == last[:, None]) & (given[:, :1] >= 0)
    nexts = mx.where(instead, given[:, :1], carry["nexts"])
    tokens = [mx.take_along_axis(nexts, last[:, None], axis=1)[:, 0]]
    offsets, pairs = carry["head_offsets"], carry["pairs"]
    hidden, head_keys, head_values = head(
        carry["hidden"],
        nexts,
        carry["head_keys"],
        carry["head_values"],
        carry["head_counts"],
        offsets,
    )
    counts = carry["head_counts"] + pairs
    hidden = mx.take_along_axis(hidden, mx.maximum(pairs - 1, 0)[:, None, None], axis=1)
    drawing = dict(moving)
    for place in range(width - 1):
        if keys:
            drawing["key"] = keys[place]
        drawing = count_fed(drawing, tokens[-1], generated[:, place])
        tokens.append(_guess(head, variant, hidden[:, 0], constants, drawing))
        if place < width - 2:
            hidden, head_keys, head_values = head(
                hidden, tokens[-1][:, None], head_keys, head_values, counts + place, offsets
            )
    seen = {"head_keys": head_keys, "head_values": head_values, "head_counts": counts}
    return stacked(tokens), carry | seen


def _guess(
    head: MtpHead, variant: Variant, hidden: mx.array, constants: Arrays, moving: Arrays
) -> mx.array:
    """The token [B] guessed from `hidden` [B, H]."""
    network, draft = head.network, head.draft
    top_k = network.kernels.vocabulary_top_k
    if draft is None or not variant.greedy:  # a draw's noise is that of the whole vocabulary
        guess = sample(network.head(hidden), variant, constants, moving, top_k)[0]
        return mx.maximum(guess, 0)
    cut = [
        {name: draft.cut(x) if name in BY_TOKEN else x for name, x in arrays.items()}
        for arrays in (constants, moving)
    ]
    guess = sample(draft(hidden), variant, cut[0], cut[1], top_k)[0]
    return draft.tokens(mx.maximum(guess, 0))


def _sampled(
    logits: mx.array,
    variant: Variant,
    constants: Arrays,
    keys: list[mx.array],
    counts: list[mx.array],
    width: int,
    top_k: VocabularyTopK,
) -> mx.array:
    """logits [B·T, V] -> what the rows' samplers draw at all places [B·T]."""
    flat = {name: mx.repeat(array, width, axis=0) for name, array in constants.items()}
    moving: Arrays = {}
    if keys:
        moving["key"] = stacked(keys[:-1]).flatten(0, 1)
    if counts:
        moving["counts"] = mx.stack(counts, axis=1).flatten(0, 1)
    return sample(logits, variant, flat, moving, top_k)[0]


def _keys(moving: Arrays, width: int) -> list[mx.array]:
    """The samplers' keys [B, 2] before the first place and after each; none for greedy ones."""
    if "key" not in moving:
        return []
    keys = [moving["key"]]
    for _ in range(width):
        keys.append(mx.vmap(lambda key: mx.random.split(key, 2))(keys[-1])[:, 0])
    return keys


def _counts(moving: Arrays, tokens: mx.array, generated: mx.array) -> list[mx.array]:
    """The samplers' counts [B, V] after each of the tokens was fed; none without penalties."""
    found: list[mx.array] = []
    for place in range(tokens.shape[1]) if "counts" in moving else ():
        moving = count_fed(moving, tokens[:, place], generated[:, place])
        found.append(moving["counts"])
    return found


def _accepted(tokens: mx.array, samples: mx.array) -> mx.array:
    """How many of the guesses tokens[:, 1:] are what was drawn, up to the first that is not [B]:
    all in one launch, of columns."""
    count, going = mx.array(0, mx.int32), mx.array(True)
    for place in range(tokens.shape[1] - 1):
        going = going & (tokens[:, place + 1] == samples[:, place])
        count = count + going.astype(mx.int32)
    return count
