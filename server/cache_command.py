"""`mxserve cache ls | clear`: what the prompt cache keeps on the disk, and away with it.

Looks at names and sizes; opens no entry and needs no model. A server that is running may go on: it
finds its files gone, and writes new ones.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from server.engine import cache_folder
from server.engine.cache_folder import default_folder
from server.engine.disk_index import on_disk

FOLDER_VARIABLE = "MXSERVE_DISK_CACHE"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class ModelEntries:
    """One model's part. `bytes`: as the disk gives space; `newest`: Unix seconds of the last use,
    None when it is empty."""

    folder: str
    model: str
    entries: int
    bytes: int
    newest: float | None


def main(argv: Sequence[str]) -> int:
    """Runs `mxserve cache ARGV`; returns the exit status."""
    options = _parser().parse_args(argv)
    folder: Path = options.folder or _configured_folder()
    if options.command == "ls":
        return _list(folder, as_json=options.json)
    return _clear(folder, sure=options.yes)


def contents(folder: Path) -> list[ModelEntries]:
    """What lies in `folder`, by model, the newest first."""
    found: list[ModelEntries] = []
    for part in cache_folder.subfolders(folder):
        items = list(cache_folder.listed(part))
        found.append(
            ModelEntries(
                folder=part.name,
                model=cache_folder.label(part),
                entries=len(items),
                bytes=sum(on_disk(item.nbytes) for item in items),
                newest=max((item.used for item in items), default=None),
            )
        )
    return sorted(found, key=lambda part: part.newest or 0, reverse=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mxserve cache", description="The prompt cache's files on the disk."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    ls = commands.add_parser("ls", help="what is there, by model")
    ls.add_argument("--json", action="store_true", help="as JSON")
    clear = commands.add_parser("clear", help="remove all of it")
    clear.add_argument("--yes", action="store_true", help="do not ask")
    for command in (ls, clear):
        command.add_argument(
            "--folder",
            type=lambda text: Path(text).expanduser(),
            metavar="DIR",
            help=f"where it is (default: ${FOLDER_VARIABLE}, or the user's cache folder)",
        )
    return parser


def _configured_folder() -> Path:
    named = os.environ.get(FOLDER_VARIABLE, "")
    return default_folder() if named in ("", "off") else Path(named).expanduser()


def _list(folder: Path, *, as_json: bool) -> int:
    parts = contents(folder)
    if as_json:
        print(json.dumps({"folder": str(folder), "models": [asdict(part) for part in parts]}))
        return 0
    print(folder)
    if not parts:
        print("  nothing is kept there")
        return 0
    now = time.time()
    rows = [("MODEL", "FOLDER", "ENTRIES", "SIZE", "LAST USED")]
    for part in parts:
        used = "-" if part.newest is None else _ago(now - part.newest)
        name = "".join(c if c.isprintable() else "?" for c in part.model) or "-"
        rows.append((name, part.folder, str(part.entries), _size(part.bytes), used))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  "
            + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    return 0


def _clear(folder: Path, *, sure: bool) -> int:
    parts = contents(folder)
    entries, size = sum(part.entries for part in parts), sum(part.bytes for part in parts)
    if not parts:
        print(f"{folder}: nothing is kept there")
        return 0
    if not sure and not _confirmed(f"Remove {entries} entries, {_size(size)}, from {folder}?"):
        print("Nothing was removed.", file=sys.stderr)
        return 1
    removed, failed = 0, 0
    for part in parts:
        try:
            removed += cache_folder.remove_files(folder / part.folder)
        except OSError as error:
            failed = 1
            print(f"mxserve cache: {error}", file=sys.stderr)
    print(f"Removed {removed} entries from {folder}")
    return failed


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        print("mxserve cache: say --yes to remove without being asked", file=sys.stderr)
        return False
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()
        return False


def _size(nbytes: float) -> str:
    unit = 0
    while nbytes >= 1024 and unit < len(_UNITS) - 1:
        nbytes /= 1024
        unit += 1
    return f"{nbytes:.0f} {_UNITS[unit]}" if unit == 0 else f"{nbytes:.1f} {_UNITS[unit]}"


def _ago(seconds: float) -> str:
    for length, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        count = int(seconds // length)
        if count:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"
