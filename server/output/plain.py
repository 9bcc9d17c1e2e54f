"""The text of a raw completion: nothing in it means anything but the stop strings.

The same face as the parser of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from .events import ContentText, OutputEvent, StopHit
from .stop_strings import StopMatcher


class PlainText:
    """Passes text on as content, up to the first of the `stop` strings."""

    in_content = True

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stops = StopMatcher(stop)
        self._stopped = False

    def feed(self, text: str) -> list[OutputEvent]:
        """The events of the next piece of text; none once it stopped."""
        if self._stopped:
            return []
        certain, stop = self._stops.feed(text)
        events: list[OutputEvent] = [ContentText(certain)] if certain else []
        if stop is not None:
            self._stopped = True
            events.append(StopHit(stop))
        return events

    def finish(self) -> list[OutputEvent]:
        """The text ends here: what was held back is text."""
        held = "" if self._stopped else self._stops.flush()
        return [ContentText(held)] if held else []
