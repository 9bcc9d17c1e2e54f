"""The terminal chat with the embedded demo model in its own process."""

import subprocess
import sys


def chat(lines: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", "chat", *flags]
    return subprocess.run(
        command, input=lines, capture_output=True, text=True, timeout=240, check=False
    )


def test_two_turns_without_a_server() -> None:
    done = chat(
        "What is the capital of France?\nAnd Italy?\n", "--model", "demo", "--effort", "none"
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    assert "Rome" in done.stdout


def test_a_missing_model_is_told_in_one_line() -> None:
    done = chat("hello\n", "--model", "/no/such/folder")
    assert done.returncode == 1
    assert "/no/such/folder" in done.stderr
    assert "Traceback" not in done.stderr
