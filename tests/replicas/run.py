"""Two replicas behind nginx, one of them killed under load and started again."""

from __future__ import annotations

import json
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import ServerProcess, start_server
from tests.replicas.load import Load, Outcome
from tests.replicas.proxy import free_port, proxy


@dataclass
class Run:
    """What became of all requests: before the kill, around it, after the return."""

    outcomes: list[Outcome] = field(default_factory=list)
    killed_at: int = 0  # index of the first outcome after the kill
    returned_at: int = 0  # index of the first outcome after the replica was back
    back: str = ""  # the killed replica's address

    def figures(self) -> dict[str, Any]:
        kinds = Counter(outcome.kind for outcome in self.outcomes)
        later = [o for o in self.outcomes if o.turn and o.kind == "ok"]
        return {
            "requests": len(self.outcomes),
            "answered": kinds["ok"],
            "lost": kinds["lost"],
            "wrong": kinds["wrong"],
            "cut_after_they_had_begun": kinds["cut"],
            "answered_by_a_second_replica": sum(
                o.kind == "ok" and len(o.replicas) > 1 for o in self.outcomes
            ),
            "sessions_that_moved_while_both_ran": self.moved(),
            "later_turns": len(later),
            "later_turns_with_a_cached_prefix": sum(o.cached > 0 for o in later),
            "by_the_killed_one_after_its_return": sum(
                o.replicas[-1:] == (self.back,) for o in self.outcomes[self.returned_at :]
            ),
        }

    def moved(self) -> int:
        """Sessions that saw two replicas before one was killed."""
        seen: dict[str, set[str]] = {}
        for outcome in self.outcomes[: self.killed_at]:
            seen.setdefault(outcome.session, set()).update(outcome.replicas)
        return sum(len(replicas) > 1 for replicas in seen.values())

    def unexpected(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.kind in ("lost", "wrong")]


def run(folder: Path, *, clients: int, requests: int) -> Run:
    """`requests` of them with both replicas, as many with one killed, as many with it back."""
    ports = [free_port(), free_port()]
    replicas: list[ServerProcess] = []
    try:
        for port in ports:
            replicas.append(_replica(port))
        with proxy(folder, ports) as url:
            load = Load(url, clients)
            load.start()
            load.wait(requests)
            result = Run(back=f"127.0.0.1:{ports[1]}")
            result.killed_at = len(load.outcomes)
            replicas[1].process.send_signal(signal.SIGKILL)
            replicas[1].process.wait()
            load.wait(requests)
            replicas.append(_replica(ports[1]))
            result.returned_at = len(load.outcomes)
            load.wait(requests, by=result.back)
            load.stop()
            result.outcomes = load.outcomes
            return result
    finally:
        for server in replicas:
            server.stop()


def _replica(port: int) -> ServerProcess:
    server = start_server("--port", str(port))
    assert server.url, server.output
    return server


def told(result: Run) -> str:
    return json.dumps(result.figures(), indent=2)
