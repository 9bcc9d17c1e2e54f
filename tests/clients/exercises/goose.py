"""goose on Chat Completions, with its developer tools, none of which can do more than is said here.

It has no mode that allows some tools and refuses the others without asking, so all are pinned.
"""

from agent import KEY, MODEL, WORK, call, exercise, relay

ENVIRONMENT = {
    "GOOSE_PROVIDER": "openai",
    "OPENAI_HOST": relay.url,
    "OPENAI_BASE_PATH": "v1/chat/completions",
    "OPENAI_API_KEY": KEY,
    "GOOSE_MODEL": MODEL,
    "GOOSE_MODE": "auto",
    "GOOSE_DISABLE_KEYRING": "1",
    "GOOSE_TELEMETRY_ENABLED": "false",
}
OTHERS = {
    "write": {"path": str(WORK / "written.txt"), "content": "goose"},
    "edit": {"path": str(WORK / "written.txt"), "before": "goose", "after": "swan"},
    "tree": {"path": str(WORK)},
}


def goose(prompt: str, *flags: str) -> str:
    return call("goose", "run", "--quiet", "--no-profile", "--with-builtin", "developer",
                "--max-turns", "5", *flags, "--text", prompt, **ENVIRONMENT)  # fmt: skip


exercise(
    lambda prompt: goose(prompt, "--name", "first"),
    lambda prompt: goose(prompt, "--name", "first", "--resume"),
    path="/v1/chat/completions",
    tool="shell",
    arguments={"command": "cat notes.txt"},
    others=OTHERS,
    use=lambda prompt: goose(prompt, "--name", "second"),
    found=False,  # the date stands before the question, and the demo mostly answers that
)
