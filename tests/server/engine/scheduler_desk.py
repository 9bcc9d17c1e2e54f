"""A scheduler driven by hand, turn by turn."""

from __future__ import annotations

from server.engine.scheduler import Admit, Decode, Prefill, Scheduler

GAP_S = 0.120


class Desk:
    """A scheduler with a clock turned by hand."""

    def __init__(self, max_batch: int = 4, max_queue: int = 100) -> None:
        self.now = 0.0
        self.scheduler: Scheduler[str] = Scheduler(max_batch, max_queue, GAP_S, lambda: self.now)

    def add(self, *keys: str, tokens: int = 100, slots: int = 1) -> None:
        for key in keys:
            assert self.scheduler.add(key, tokens=tokens, slots=slots)

    def turn(self, seconds: float = 0.001, fed: int | None = None) -> object:
        """Takes the next turn; an admission has to be answered before the next."""
        turn = self.scheduler.next()
        self.now += seconds
        if turn is not None:
            whole = turn.tokens if isinstance(turn, Prefill) else 1
            self.scheduler.done(whole if fed is None else fed)
        self.scheduler.check()
        return turn

    def chunk(self, slower: float = 1.0, failed: bool = False) -> int:
        """Steps of 20 ms up to the next chunk, which takes 0.5 ms a token; returns its tokens."""
        turn = self.scheduler.next()
        while not isinstance(turn, Prefill):
            self.now += 0.02
            self.scheduler.done()
            turn = self.scheduler.next()
        self.now += turn.tokens * 0.0005 * slower
        self.scheduler.done(0 if failed else turn.tokens)
        return turn.tokens

    def admit(self, *keys: str) -> None:
        """These are the next to be admitted, between steps."""
        for key in keys:
            assert next(turn for turn in iter(self.turn, Decode())) == Admit(key)

    def run(self, *keys: str, slots: int = 1) -> None:
        """Adds requests and brings them to decoding."""
        for key in keys:
            self.add(key, slots=slots)
            self.admit(key)
            self.scheduler.decoding(key)
