"""Whether a command of the documentation would be understood, without running it."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from server import cli
from server.service import command as service
from tests.conftest import ROOT

TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
_OPERATORS = ("|", ">", "<", "&&", ";", "&")


class Parsed(Exception):
    """The arguments were taken."""


def check(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where `line` has a flag of mxserve or a target of make that does not exist."""
    for words in _commands(line):
        program = Path(words[0]).name
        if program == "make":
            targets = set(TARGET.findall(Path(ROOT, "Makefile").read_text()))
            asked = [word for word in words[1:] if "=" not in word]
            assert set(asked) <= targets, line
        elif program == "mxserve":
            _check_ours(words[1:], line, monkeypatch)


def _commands(line: str) -> list[list[str]]:
    """The simple commands of a line, without the variables before them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in _OPERATORS:
            found.append([])
        elif found[-1] or not re.match(r"[A-Z_]+=", word):
            found[-1].append(word)
    return [words for words in found if words]


def _check_ours(arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if arguments[:1] == ["service"]:
        try:
            service.parsed(arguments[1:])
        except SystemExit as ended:
            pytest.fail(f"mxserve service does not take this: {line} ({ended.code})")
        return
    parse = argparse.ArgumentParser.parse_args

    def only_parse(self: argparse.ArgumentParser, *args: Any, **fields: Any) -> Any:
        parse(self, *args, **fields)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
        try:
            cli.main(arguments)
        except Parsed:
            return
        except SystemExit as ended:
            pytest.fail(f"mxserve does not take this: {line} ({ended.code})")
    pytest.fail(f"nothing was parsed: {line}")
