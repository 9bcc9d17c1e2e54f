"""aider on Chat Completions, without git."""

import json

from agent import HOME, KEY, MODEL, cached, call, prepare, relay, shown, well_answered
from report import FRANCE, ITALY, check, expect

prepare()
COMMAND = ("aider", "--model", f"openai/{MODEL}", "--no-git", "--yes-always", "--no-pretty",
           "--no-check-update", "--analytics-disable", "--no-show-model-warnings",
           "--no-show-release-notes", "--map-tokens", "0", "--no-suggest-shell-commands",
           "--no-detect-urls", "--input-history-file", str(HOME / "input.history"),
           "--chat-history-file", str(HOME / "chat.history"), "--chat-mode", "ask")  # fmt: skip


def aider(*flags: str, typed: str = "") -> str:
    return call(*COMMAND, *flags, typed=typed, OPENAI_API_BASE=f"{relay.url}/v1",
                OPENAI_API_KEY=KEY)  # fmt: skip


for name, flag in (("streamed", "--stream"), ("whole", "--no-stream")):

    @check(f"one prompt, headless, {name}")
    def one(flag: str = flag) -> None:
        relay.passed.clear()
        answer = aider(flag, "--message", FRANCE)
        shown(answer, well_answered("/v1/chat/completions"))
        expect("Paris" in answer, answer[-300:])


@check("second turn cached")
def second() -> None:
    relay.passed.clear()
    answer = aider("--no-fancy-input", typed=f"{FRANCE}\n{ITALY}\n/exit\n")
    first, then = well_answered("/v1/chat/completions")
    shown(answer, [then])
    expect("Rome" in answer, answer[-300:])
    expect(FRANCE in json.dumps(then.request), "a new conversation")
    # Only the newest prompt ends with a reminder, so the one before it is another text by now.
    cached(then, first.tokens, share=0.75)


if relay.refused:
    print("note: it also tried to reach " + ", ".join(sorted(relay.refused)), flush=True)
