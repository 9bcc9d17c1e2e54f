"""aider on Chat Completions, without git."""

from agent import HOME, KEY, MODEL, call, prepare, relay, well_answered
from report import FRANCE, check, expect

prepare()
COMMAND = ("aider", "--model", f"openai/{MODEL}", "--no-git", "--yes-always", "--no-pretty",
           "--no-check-update", "--analytics-disable", "--no-show-model-warnings",
           "--no-show-release-notes", "--map-tokens", "0", "--no-suggest-shell-commands",
           "--no-detect-urls", "--input-history-file", str(HOME / "input.history"),
           "--chat-history-file", str(HOME / "chat.history"))  # fmt: skip


def ask(*flags: str) -> str:
    return call(*COMMAND, *flags, "--message", FRANCE, OPENAI_API_BASE=f"{relay.url}/v1",
                OPENAI_API_KEY=KEY)  # fmt: skip


for name, flags in (("streamed", ("--stream",)), ("whole", ("--no-stream",))):

    @check(f"one prompt, headless, {name}")
    def one(flags: tuple[str, ...] = flags) -> None:
        relay.passed.clear()
        answer = ask("--chat-mode", "ask", *flags)
        well_answered("/v1/chat/completions")
        expect("Paris" in answer, answer[-300:])


if relay.refused:
    print("note: it also tried to reach " + ", ".join(sorted(relay.refused)), flush=True)
