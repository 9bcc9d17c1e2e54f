"""GitHub's Copilot CLI, offline with a model of one's own, in all three dialects."""

from agent import FILE, KEY, MODEL, call, exercise, relay

COMMON = {
    "COPILOT_OFFLINE": "true",
    "COPILOT_PROVIDER_API_KEY": KEY,
    "COPILOT_MODEL": MODEL,
}
CHAT = {"COPILOT_PROVIDER_WIRE_API": "completions", "COPILOT_PROVIDER_BASE_URL": f"{relay.url}/v1"}
RESPONSES = {**CHAT, "COPILOT_PROVIDER_WIRE_API": "responses"}
MESSAGES = {"COPILOT_PROVIDER_TYPE": "anthropic", "COPILOT_PROVIDER_BASE_URL": relay.url}
# With all of its tools the prompt has 21,000 of the demo's tokens. Once is enough.
ONE = ("--available-tools", "view")


def copilot(settings: dict[str, str], prompt: str, *flags: str) -> str:
    return call("copilot", "-p", prompt, "--silent", "--disable-client-telemetry",
                "--allow-tool", "view", *flags, **COMMON, **settings)  # fmt: skip


for label, settings, path, flags in (
    ("", CHAT, "/v1/chat/completions", ()),
    ("responses: ", RESPONSES, "/v1/responses", ONE),
    ("messages: ", MESSAGES, "/v1/messages", ONE),
):
    exercise(
        lambda prompt, settings=settings: copilot(settings, prompt, *ONE),
        lambda prompt, settings=settings: copilot(settings, prompt, *ONE, "--continue"),
        path=path,
        tool="view",
        arguments={"path": str(FILE)},
        use=lambda prompt, settings=settings, flags=flags: copilot(settings, prompt, *flags),
        found=False,  # the date stands before the question, and the demo mostly answers that
        label=label,
    )
