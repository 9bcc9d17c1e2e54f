"""`mxserve key new | list | remove`: keys for clients, kept as hashes in a file.

A key is shown once, when it is made. A server that is running sees the change within a second.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from server.keys import (
    MAX_KEYS,
    NAME,
    KeyFileError,
    KeyRecord,
    new_key,
    read_key_file,
    write_key_file,
)
from server.state_folder import state_folder

FILE_VARIABLE = "MXSERVE_KEY_FILE"


def main(argv: Sequence[str]) -> int:
    """Runs `mxserve key ARGV`; returns the exit status."""
    options = _parser().parse_args(argv)
    path: Path = options.file or configured_file()
    try:
        records = read_key_file(path)
        if options.command == "list":
            return _list(path, records)
        if options.command == "new":
            return _new(path, records, options.name)
        return _remove(path, records, options.name)
    except (KeyFileError, OSError) as error:
        print(f"mxserve key: {error}", file=sys.stderr)
        return 1


def configured_file() -> Path:
    """The file that the environment names, or the user's own."""
    named = os.environ.get(FILE_VARIABLE, "")
    return Path(named).expanduser() if named else state_folder() / "keys.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mxserve key", description="Keys for clients; the file holds their hashes only."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="make a key, show it once, keep its hash")
    remove = commands.add_parser("remove", help="refuse a key from now on")
    listing = commands.add_parser("list", help="names and dates; keys cannot be shown again")
    for command in (new, remove):
        command.add_argument("name", metavar="NAME", help="whose key it is, or what for")
    for command in (new, remove, listing):
        command.add_argument(
            "--file",
            type=lambda text: Path(text).expanduser(),
            metavar="FILE",
            help=f"the key file (default: ${FILE_VARIABLE}, or keys.json in the user's folder)",
        )
    return parser


def _list(path: Path, records: Sequence[KeyRecord]) -> int:
    print(path)
    if not records:
        print("  there are no keys in it")
    for record in records:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.created))
        print(f"  {record.name:<24} {made}")
    return 0


def _new(path: Path, records: Sequence[KeyRecord], name: str) -> int:
    if not NAME.fullmatch(name):
        legal = "1 to 64 letters, digits or . _ -, the first a letter or digit"
        raise KeyFileError(f"a name has {legal}; got {name!r:.80}")
    if any(record.name == name for record in records):
        raise KeyFileError(f"{path} has a key of the name {name}; remove it, or take another name")
    if len(records) >= MAX_KEYS:
        raise KeyFileError(f"{path} has {MAX_KEYS} keys, which is the most there can be")
    key = new_key()
    write_key_file(path, [*records, KeyRecord.of(name, key, int(time.time()))])
    print(f"The hash of this key is in {path}; it is not shown again.", file=sys.stderr)
    print(f"Serve with it: mxserve serve --key-file '{path}'", file=sys.stderr)
    print(key)
    return 0


def _remove(path: Path, records: Sequence[KeyRecord], name: str) -> int:
    left = [record for record in records if record.name != name]
    if len(left) == len(records):
        raise KeyFileError(f"{path} has no key of the name {name!r:.80}")
    write_key_file(path, left)
    print(f"{name} was removed from {path}")
    return 0
