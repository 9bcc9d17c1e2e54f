"""`--log-file`: what a process prints is in its files, none of it lost when they change."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, start_server

WRITER = """
import logging, os, sys
from pathlib import Path
from server.log_file import LogFile
logging.basicConfig(level="INFO", format="%(message)s", handlers=[logging.StreamHandler()])
logging.getLogger().addHandler(LogFile(Path(sys.argv[1]), limit_bytes=1000, kept=3))
os.write(2, b"native code\\n")
print("standard output", flush=True)
for number in range(int(sys.argv[2])):
    logging.info("line %06d", number)
"""


def written(path: Path, lines: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WRITER, str(path), str(lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )


def test_everything_printed_is_there(tmp_path: Path):
    path = tmp_path / "new" / "log"
    done = written(path, 2)
    assert done.stdout == done.stderr == ""
    assert path.read_text().splitlines() == [
        *("native code", "standard output", "line 000000", "line 000001")
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_newest_lines_are_kept_in_order(tmp_path: Path):
    path = tmp_path / "log"
    written(path, 1000)
    names = sorted(item.name for item in tmp_path.iterdir())
    assert names == ["log", "log.1", "log.2", "log.3"]
    text = "".join((tmp_path / name).read_text() for name in reversed(names))
    numbers = [int(line.split()[1]) for line in text.splitlines()]
    assert numbers == list(range(numbers[0], 1000))
    assert all(1000 <= (tmp_path / name).stat().st_size < 1100 for name in names[1:])


def test_a_server_logs_there(tmp_path: Path):
    path = tmp_path / "log"
    server = start_server("--log-file", str(path), "--model", str(tmp_path / "nothing"))
    assert server.process.wait(60) == 1
    assert server.output == ""
    assert "nothing" in path.read_text()


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path):
    server = start_server("--log-file", str(tmp_path))
    assert server.process.wait(60) == 1
    assert "cannot write the log" in server.output
