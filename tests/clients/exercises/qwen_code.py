"""Qwen Code on Chat Completions; in plan mode, so that it changes nothing."""

from agent import HOME, KEY, MODEL, call, exercise, relay

ENVIRONMENT = {
    "OPENAI_BASE_URL": f"{relay.url}/v1",
    "OPENAI_API_KEY": KEY,
    "OPENAI_MODEL": MODEL,
    "QWEN_TELEMETRY_ENABLED": "false",
}
folder = HOME / ".qwen"
folder.mkdir(exist_ok=True)
(folder / "settings.json").write_text('{"privacy": {"usageStatisticsEnabled": false}}')


def ask(prompt: str) -> str:
    return call("qwen", "--auth-type", "openai", "--approval-mode", "plan", "-p", prompt,
                **ENVIRONMENT)  # fmt: skip


exercise(ask, path="/v1/chat/completions", tool="list_directory")
