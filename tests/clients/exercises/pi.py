"""pi on Chat Completions; it is given its reading tools only."""

import json

from agent import HOME, KEY, MODEL, call, exercise, relay

PROVIDER = {
    "baseUrl": f"{relay.url}/v1",
    "api": "openai-completions",
    "apiKey": KEY,
    "models": [{"id": MODEL, "reasoning": True, "contextWindow": 131072, "maxTokens": 1024}],
}

folder = HOME / ".pi/agent"
folder.mkdir(parents=True, exist_ok=True)
(folder / "models.json").write_text(json.dumps({"providers": {"mxserve": PROVIDER}}))


def pi(prompt: str, *flags: str) -> str:
    return call("pi", "--provider", "mxserve", "--model", MODEL, "--tools", "read,ls", *flags,
                "-p", prompt, PI_OFFLINE="1")  # fmt: skip


exercise(
    pi,
    lambda prompt: pi(prompt, "--continue"),
    path="/v1/chat/completions",
    tool="read",
    arguments={"path": "notes.txt"},
)
