"""One state on its way to the disk: copied piece by piece in the thread that owns it, written in
the writer's.

Knows the order of the steps and what a failure leaves; not which state is saved, nor what else is
on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from server.engine.background import Background
from server.engine.cache_file import AtomicFile


class Saving:
    """step() until it says that there is no more, or abort().

    `admit` and `ended` are called in the writer's thread: admit() says whether there is room for
    the file, ended(error, stored) comes last and once, whatever happens.
    """

    def __init__(
        self,
        thread: Background,
        path: Path,
        head: bytes,
        pieces: Iterator[bytes],
        *,
        admit: Callable[[], bool],
        ended: Callable[[OSError | None, bool], None],
    ) -> None:
        self._thread = thread
        self._path = path
        self._head = head
        self._pieces = pieces
        self._admit = admit
        self._ended = ended
        self._piece: bytes | None = b""  # copied, not taken by the writer yet; None: nothing left
        self._begun = self._over = False
        # The writer's own.
        self._file: AtomicFile | None = None
        self._failed = self._reported = False

    def step(self, wait: float) -> bool:
        """Copies one piece and hands it over, waiting at most `wait` seconds for room; whether
        there is more to do. Raises what the copying raised, after which abort() is due."""
        if self._over:
            return False
        if not self._begun:
            self._begun = True
            self._over = not self._thread.submit(self._begin)
        elif self._piece is None:
            self._over = True
            self._thread.submit(lambda: self._end(publish=True))
        elif not self._piece:
            self._piece = next(self._pieces, None)
        elif self._thread.room(len(self._piece), wait):
            piece, self._piece = self._piece, b""
            self._thread.submit(lambda: self._write(piece), len(piece))
        if self._failed:
            self.abort()
        return not self._over

    def abort(self) -> None:
        """Ends it; what was written is removed."""
        if not self._over:
            self._over = True
            self._thread.submit(lambda: self._end(publish=False))
        self._piece, self._pieces = None, iter(())

    def _begin(self) -> None:
        try:
            if self._admit():
                self._file = AtomicFile(self._path, self._head)
            else:
                self._failed = True
        except OSError as error:
            self._fail(error)

    def _write(self, piece: bytes) -> None:
        if self._file is not None:
            try:
                self._file.write(piece)
            except OSError as error:
                self._fail(error)

    def _end(self, *, publish: bool) -> None:
        file, self._file = self._file, None
        stored, failure = False, None
        if file is not None:
            try:
                if publish:
                    file.publish()
                    stored = True
            except OSError as error:
                failure = error
            if not stored:
                file.discard()
        self._report(failure, stored)

    def _fail(self, error: OSError) -> None:
        if self._file is not None:
            self._file.discard()
            self._file = None
        self._failed = True
        self._report(error, False)

    def _report(self, error: OSError | None, stored: bool) -> None:
        if not self._reported:
            self._reported = True
            self._ended(error, stored)
