"""`make clients`: installs real clients, runs each one's exercise against one server, tells all.

The server is `mxserve serve` with the embedded demo, on a free port, in a process of its own.
Nothing but the package registries and localhost is used.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from server import __version__
from tests.conftest import start_server

from .catalogue import CLIENTS, Client
from .install import Installed, InstallFailed, install, node_folder
from .process import clean_environment, run
from .results import Check, Result, as_json, published, table

ROOT = Path(__file__).parents[2]
EXERCISES = Path(__file__).parent / "exercises"
PREFIXES = ROOT / ".venv-clients"


def exercise(client: Client, installed: Installed, server: dict[str, str], work: Path) -> Result:
    """Runs the client's exercise; every check it reports is a line of JSON."""
    scripts = installed.prefix / "exercises"
    # JavaScript finds its packages from where the file lies.
    shutil.copytree(EXERCISES, scripts, dirs_exist_ok=True)
    path = [str(installed.commands)]
    if client.runtime == "node":
        path.append(str(node_folder(PREFIXES)))
    home = work / client.name
    environment = clean_environment(home, **server)
    environment["PATH"] = ":".join([*path, environment["PATH"]])
    ours = client.runtime == "node" and client.exercise.endswith(".py")
    interpreter = Path(sys.executable) if ours else installed.interpreter
    command = [str(interpreter), str(scripts / client.exercise)]
    done = run(
        command, environment=environment, folder=home, logs=work / f"{client.name}-log",
        seconds=client.seconds,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"check"')]
    notes = [line[6:] for line in done.stdout.splitlines() if line.startswith("note: ")]
    failure = None
    if done.status != 0:
        ended = f"status {done.status}" if done.status is not None else f"{client.seconds} s passed"
        failure = f"the exercise ended early ({ended}): {done.stderr[-900:]}"
    checks = tuple(
        Check(line["check"], line["passed"], line["seconds"], line["error"],
              why(client, line["check"], line["error"]))
        for line in lines
    )  # fmt: skip
    return Result(client.name, client.kind, client.version, client.apis, checks,
                  round(done.seconds, 1), installed.seconds, installed.size, failure,
                  tuple(notes))  # fmt: skip


def why(client: Client, check: str, error: str | None) -> str | None:
    """Why this failure is known; None where it is none, or another one."""
    known = client.known.get(check)
    return known.why if error is not None and known and known.explains(error) else None


def attempt(client: Client, server: dict[str, str], work: Path) -> Result:
    """As `exercise`, from the installation on; a failed installation is a result too."""
    try:
        installed = install(client, PREFIXES)
    except InstallFailed as failed:
        return Result(client.name, client.kind, client.version, client.apis, (), 0, 0, 0,
                      f"not installed: {failed}")  # fmt: skip
    return exercise(client, installed, server, work)


def chosen(only: str) -> list[Client]:
    """The clients named, comma-separated, by name or kind; all for none. Exits for a wrong name."""
    wanted = {name.strip() for name in only.split(",") if name.strip()}
    known = {client.name for client in CLIENTS} | {client.kind for client in CLIENTS}
    if unknown := wanted - known:
        sys.exit(
            f"no such client: {', '.join(sorted(unknown))} (there are: {', '.join(sorted(known))})"
        )
    return [c for c in CLIENTS if not wanted or {c.name, c.kind} & wanted]


def about() -> dict[str, Any]:
    """When and on what this run was made."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "mxserve": __version__,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make clients", description=__doc__)
    parser.add_argument(
        "--only", default="", help="names or kinds (sdk, agent, oracle), with commas"
    )
    parser.add_argument(
        "--json", type=Path, default=PREFIXES / "results.json", help="where to write"
    )
    parser.add_argument("--url", help="a server that runs already, such as http://127.0.0.1:8080")
    parser.add_argument(
        "--keep", action="store_true", help="keep the clients' home folders and logs"
    )
    parser.add_argument("--publish", type=Path, help="write a JSON file's table into this document")
    options = parser.parse_args(arguments)
    if options.publish:
        report = json.loads(options.json.read_text())
        options.publish.write_text(published(options.publish.read_text(), report))
        return 0
    clients = chosen(options.only)
    PREFIXES.mkdir(exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="mxserve-clients-"))
    started = None if options.url else start_server()
    results: list[Result] = []
    try:
        url = options.url or (started.url if started else "")
        card = httpx.get(f"{url}/v1/models", timeout=30).json()["data"][0]
        server = {"MXSERVE_URL": url, "MXSERVE_MODEL": card["id"]}
        for client in clients:
            results.append(attempt(client, server, work))
            print(table(results[-1:]).split("\n", 1)[1], flush=True)
    finally:
        if started:
            started.stop()
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    options.json.write_text(as_json(results, about()))
    print(f"\n{table(results)}\n")
    wrong = sum(result.wrong for result in results)
    print(f"clients: {len(results) - wrong} passed, {wrong} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
