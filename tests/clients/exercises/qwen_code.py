"""Qwen Code on Chat Completions; without its memory, which asks the model in the background."""

import json

from agent import FILE, HOME, KEY, MODEL, call, exercise, relay

ENVIRONMENT = {
    "OPENAI_BASE_URL": f"{relay.url}/v1",
    "OPENAI_API_KEY": KEY,
    "OPENAI_MODEL": MODEL,
    "QWEN_TELEMETRY_ENABLED": "false",
}
SETTINGS = {
    "privacy": {"usageStatisticsEnabled": False},
    "memory": {"enableManagedAutoMemory": False},
}
folder = HOME / ".qwen"
folder.mkdir(exist_ok=True)
(folder / "settings.json").write_text(json.dumps(SETTINGS))


def qwen(prompt: str, *flags: str) -> str:
    return call("qwen", "--auth-type", "openai", *flags, "-p", prompt,
                **ENVIRONMENT)  # fmt: skip


exercise(
    qwen,
    lambda prompt: qwen(prompt, "--continue"),
    path="/v1/chat/completions",
    tool="read_file",
    arguments={"file_path": str(FILE)},
    found=False,
    # A session that is resumed has another first message: it lacks a reminder of the date.
    share=0.75,
)
