"""Cline's command on Chat Completions."""

import json

from agent import FILE, HOME, KEY, MODEL, call, exercise, prepare, relay

prepare()
data = str(HOME / "cline")
call("cline", "auth", "-p", "openai-compatible", "-k", KEY, "-m", MODEL, "-b", f"{relay.url}/v1",
     "--data-dir", data, CLINE_TELEMETRY_DISABLED="1", seconds=60)  # fmt: skip


def cline(prompt: str) -> str:
    lines = call("cline", "--data-dir", data, "-P", "openai-compatible", "-m", MODEL, "--json",
                 "--plan", "--retries", "1", "-t", "560", prompt,
                 CLINE_TELEMETRY_DISABLED="1")  # fmt: skip
    events = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    [result] = [event for event in events if event["type"] == "run_result"]
    return result["text"]


# It resumes a session only in its window, so the second prompt is another conversation.
exercise(
    cline,
    None,
    path="/v1/chat/completions",
    tool="read_files",
    arguments={"files": [{"path": str(FILE)}]},
)
