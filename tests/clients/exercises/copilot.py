"""GitHub's Copilot CLI, offline with a model of one's own: Chat Completions."""

from agent import FILE, KEY, MODEL, call, exercise, relay

ENVIRONMENT = {
    "COPILOT_OFFLINE": "true",
    "COPILOT_PROVIDER_BASE_URL": f"{relay.url}/v1",
    "COPILOT_PROVIDER_API_KEY": KEY,
    "COPILOT_PROVIDER_WIRE_API": "completions",
    "COPILOT_MODEL": MODEL,
}


def copilot(prompt: str, *flags: str) -> str:
    return call("copilot", "-p", prompt, "--silent", "--disable-client-telemetry",
                "--allow-tool", "view", *flags, **ENVIRONMENT)  # fmt: skip


# With all of its tools the prompt has 21,000 of the demo's tokens, and the demo loses the question.
ONE = ("--available-tools", "view")

exercise(
    lambda prompt: copilot(prompt, *ONE),
    lambda prompt: copilot(prompt, *ONE, "--continue"),
    path="/v1/chat/completions",
    tool="view",
    arguments={"path": str(FILE)},
    use=copilot,
)
