"""Cline's command on Chat Completions."""

import json

from agent import HOME, KEY, MODEL, call, exercise, prepare, relay

prepare()
data = str(HOME / "cline")
call("cline", "auth", "-p", "openai-compatible", "-k", KEY, "-m", MODEL, "-b", f"{relay.url}/v1",
     "--data-dir", data, CLINE_TELEMETRY_DISABLED="1", seconds=60)  # fmt: skip


def ask(prompt: str) -> str:
    lines = call("cline", "--data-dir", data, "-P", "openai-compatible", "-m", MODEL, "--json",
                 "--plan", "--retries", "1", "-t", "560", prompt,
                 CLINE_TELEMETRY_DISABLED="1")  # fmt: skip
    events = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    return json.dumps(events[-3:])


exercise(ask, path="/v1/chat/completions", tool="team_status")
