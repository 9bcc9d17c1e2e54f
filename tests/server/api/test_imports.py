"""Imports go one way: server.api -> server.engine -> model, and arrays stay in model."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_in(name, package):
    return name == package or name.startswith(f"{package}.")


def offenders(folder, forbidden, allowed=()):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, folder
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file)
        if any(is_in(name, package) for package in forbidden)
        and not any(is_in(name, package) or is_in(package, name) for package in allowed)
    ]


@pytest.mark.parametrize(
    ("folder", "forbidden", "allowed"),
    [
        ("model", ["server", "fastapi", "starlette", "uvicorn", "asyncio"], []),
        ("server", ["mlx"], []),
        ("server/api", ["model"], ["model.sampling"]),
        ("server/output", ["server.api", "server.engine", "model"], []),
        ("server/engine", ["server.api", "server.app", "server.cli", "fastapi", "starlette"], []),
    ],
)  # fmt: skip
def test_direction(folder, forbidden, allowed):
    assert offenders(folder, forbidden, allowed) == []


def test_the_check_sees_an_offender(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "m.py").write_text("def f():\n    import mlx.core as mx\n    return mx\n")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert offenders("p", ["mlx"]) == ["p/m.py imports mlx.core"]
