"""opencode on Chat Completions; it may neither run commands nor edit nor fetch."""

import json

from agent import FILE, HOME, KEY, MODEL, call, exercise, relay

CONFIG = {
    "$schema": "https://opencode.ai/config.json",
    "model": f"mxserve/{MODEL}",
    "small_model": f"mxserve/{MODEL}",
    "autoupdate": False,
    "share": "disabled",
    "permission": {"bash": "deny", "edit": "deny", "webfetch": "deny"},
    "provider": {
        "mxserve": {
            "npm": "@ai-sdk/openai-compatible",
            "name": "mxserve",
            "options": {"baseURL": f"{relay.url}/v1", "apiKey": KEY},
            "models": {MODEL: {"limit": {"context": 131072, "output": 1024}}},
        }
    },
}

folder = HOME / ".config/opencode"
folder.mkdir(parents=True, exist_ok=True)
(folder / "opencode.json").write_text(json.dumps(CONFIG))


def opencode(prompt: str, *flags: str) -> str:
    lines = call("opencode", "run", "--format", "json", "-m", f"mxserve/{MODEL}", *flags, prompt,
                 OPENCODE_DISABLE_MODELS_FETCH="1", OPENCODE_DISABLE_AUTOUPDATE="1",
                 OPENCODE_DISABLE_LSP_DOWNLOAD="1")  # fmt: skip
    events = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    return "".join(e["part"]["text"] for e in events if e.get("type") == "text")


exercise(
    opencode,
    lambda prompt: opencode(prompt, "--continue"),
    path="/v1/chat/completions",
    tool="read",
    arguments={"filePath": str(FILE)},
)
