"""Codex CLI on Responses; its shell commands may only read."""

from agent import HOME, KEY, MODEL, call, exercise, prepare, relay

CONFIG = f"""
model = "{MODEL}"
model_provider = "mxserve"
model_context_window = 131072
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.mxserve]
name = "mxserve"
base_url = "{relay.url}/v1"
wire_api = "responses"
env_key = "MXSERVE_KEY"
request_max_retries = 0
stream_max_retries = 0
"""

prepare()
folder = HOME / ".codex"
folder.mkdir(exist_ok=True)
(folder / "config.toml").write_text(CONFIG)
last = HOME / "last.txt"


def codex(*arguments: str) -> str:
    last.unlink(missing_ok=True)
    call("codex", "exec", "--skip-git-repo-check", "--sandbox", "read-only",
         "--output-last-message", str(last), *arguments, MXSERVE_KEY=KEY)  # fmt: skip
    return last.read_text() if last.exists() else ""


exercise(
    codex,
    lambda prompt: codex("resume", "--last", prompt),
    path="/v1/responses",
    tool="exec_command",
    arguments={"cmd": "cat notes.txt"},
)
