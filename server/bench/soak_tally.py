"""What came of the requests of a soak: each counted once, each answer held against its reference.

Knows how two texts can differ, and what a request was meant to be; nothing of clients or servers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from server.bench.streams import Stream

LONGEST_SLIP = 40

Verdict = Literal["same", "other words", "lost", "doubled"]


@dataclass(slots=True)
class Tally:
    """What came of the requests. other_words: whole answers that took another turn somewhere, as
    ties between tokens allow; lost, doubled: text missing or twice; over_long: refused as they
    should be; interrupted: by a kill of the server; errors: by kind."""

    whole: int = 0
    hung_up: int = 0
    cancelled: int = 0
    over_long: int = 0
    interrupted: int = 0
    same: int = 0
    other_words: int = 0
    lost: int = 0
    doubled: int = 0
    wrong_length: int = 0
    refused: int = 0
    tokens: int = 0
    dialects: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, str]] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return sum(self.dialects.values())

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    def sent(self, dialect: str) -> None:
        """Counts a request in a dialect, before what comes of it."""
        self.dialects[dialect] = self.dialects.get(dialect, 0) + 1

    def fail(self, why: str) -> None:
        """Counts a request that failed, by kind: the first words of why it did."""
        kind = kind_of(why)
        self.errors[kind] = self.errors.get(kind, 0) + 1
        self._example("failed", why, "")

    def _example(self, verdict: str, got: str, reference: str) -> None:
        if len(self.examples) < 10:
            self.examples.append({"verdict": verdict, "got": got, "reference": reference})


def kind_of(why: str) -> str:
    """The kind of an error: its class or status, without what it says."""
    return why.partition(":")[0][:80]


def compare(text: str, reference: str) -> Verdict:
    """How an answer differs from what the same request got alone.

    Behind the first difference, text that goes on as the reference does some characters later was
    lost before, one that goes on as the reference did some characters earlier came twice; so did
    text that only ends too early or too late. Anything else is another choice of words.
    """
    if text == reference:
        return "same"
    pairs = enumerate(zip(text, reference, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(text), len(reference)))
    rest = text[place:]
    if not rest:
        return "lost"
    if place == len(reference):
        return "doubled"
    for slip in range(1, LONGEST_SLIP + 1):
        if _goes_on(rest, reference[place + slip :]):
            return "lost"
        if slip <= place and _goes_on(rest, reference[place - slip :]):
            return "doubled"
    return "other words"


def _goes_on(text: str, wanted: str) -> bool:
    """Whether the two are alike for long enough to be no accident, and to the end of one."""
    length = min(len(text), len(wanted))
    return length >= 12 and text[:length] == wanted[:length]


def judge(
    tally: Tally,
    got: Stream,
    reference: Stream,
    dialect: str = "chat",
    *,
    cancelled: bool = False,
    killed: bool = False,
) -> None:
    """Counts one answer. Of one that ended early (hung up on, `cancelled`, or the server was
    `killed`), the text so far must be the reference's."""
    tally.sent(dialect)
    tally.tokens += len(got.arrivals)
    if got.status == 429:
        tally.refused += 1
        return
    ended_early = got.cut or cancelled or (killed and got.error is not None)
    if got.error and not ended_early:
        tally.fail(got.error)
        return
    if got.cut:
        tally.hung_up += 1
    elif cancelled:
        tally.cancelled += 1
    elif ended_early:
        tally.interrupted += 1
    else:
        tally.whole += 1
    _compare(tally, got, reference, ended_early)


def _compare(tally: Tally, got: Stream, reference: Stream, ended_early: bool) -> None:
    expected = reference.text[: len(got.text)] if ended_early else reference.text
    verdict = compare(got.text, expected)
    if verdict == "same":
        tally.same += 1
    elif verdict == "other words":
        tally.other_words += 1
    elif verdict == "lost":
        tally.lost += 1
    else:
        tally.doubled += 1
    if (
        not ended_early
        and verdict == "same"
        and got.completion_tokens != reference.completion_tokens
    ):
        tally.wrong_length += 1
    if verdict != "same":
        tally._example(verdict, got.text, reference.text)
