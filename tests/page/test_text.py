"""What models and people write stays text, and Markdown looks like what it means."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Chat

ATTACKS = [
    "<script>window.hit = 1</script>",
    '<img src=x onerror="window.hit = 1">',
    "<svg onload='window.hit = 1'></svg>",
    "[click](javascript:window.hit=1)",
    "[click](JaVaScRiPt&colon;window.hit=1)",
    "[click]( javascript:window.hit=1)",
    "[click](data:text/html,<script>parent.hit=1</script>)",
    "![x](javascript:window.hit=1)",
    '[x](https://a.example/"onmouseover="window.hit=1)',
    "<https://a.example/><script>window.hit=1</script>",
    "```html\n<script>window.hit = 1</script>\n```",
    '```"><img/src=x/onerror=window.hit=1>\nx\n```',
    "| <b onclick=window.hit=1>a</b> |\n|---|\n| <iframe src=javascript:window.hit=1> |",
    "- <details open ontoggle=window.hit=1>",
    "# <style>*{display:none}</style>",
    "<base href=https://evil.example/><form action=https://evil.example><input name=x></form>",
]
MARKDOWN = """# Title

Some **bold**, *slanted*, ~~gone~~ and `code`, see [the page](https://a.example/x) or
https://b.example.

1. one
   - inner
2. two

- [x] done
- [ ] open

> quoted

| name | figure |
|:-----|-------:|
| a | 1 |

```python
def f(x):  # note
    return "text", 42
```

---

![a picture](https://a.example/i.png)
"""


def test_attacks_stay_text(chat: Chat):
    text = "\n\n".join(ATTACKS)
    requests: list[str] = []
    chat.page.on("request", lambda request: requests.append(request.url))
    chat.answer_with_text(text)
    chat.ask(text)
    answer = chat.page.locator(".answer")
    for part in ("<script>window.hit = 1</script>", "<iframe src=javascript", "<style>*{display"):
        expect(answer).to_contain_text(part)
        expect(chat.page.locator(".bubble")).to_contain_text(part)
    for where in (".answer", ".bubble", "#conversations", "#title"):
        tags = "script, img, svg[onload], iframe, style, base, form, input, [onclick], [onerror]"
        assert chat.page.locator(where).locator(tags).count() == 0
    chat.page.locator(".answer").hover()
    links = answer.locator("a")
    for link in links.all():
        assert (link.get_attribute("href") or "").startswith(("https://", "http://"))
        assert set((link.get_attribute("rel") or "").split()) >= {"noopener", "noreferrer"}
    assert chat.page.evaluate("window.hit") is None
    chat.page.reload()
    expect(answer).to_contain_text("window.hit")
    assert chat.page.evaluate("window.hit") is None
    assert all(url.startswith((chat.server.url, "blob:")) for url in requests), requests


# What no line of the page does; a mistake in it, or an attack, might try to.
TRIES = {
    "HTML out of text": "document.body.innerHTML = '<b>x</b>'",
    "code out of text": "eval('1')",
    "another server": "await fetch('https://a.example/')",
    "a picture from elsewhere": "await new Promise((resolve, reject) => Object.assign(new Image(), "
    "{onload: resolve, onerror: reject, src: 'https://a.example/i.png'}))",
}


@pytest.mark.parametrize("what", TRIES)
def test_the_policy_refuses(chat: Chat, what: str):
    chat.expects = ["Content Security Policy", "TrustedHTML", "TrustedScript"]
    refused = chat.page.evaluate(
        f"""async () => {{
          let violated = 0;
          document.addEventListener("securitypolicyviolation", () => violated += 1);
          await new Promise((resolve) => setTimeout(resolve));  // the debugger's own call may eval
          try {{ {TRIES[what]} }} catch {{
            await new Promise((resolve) => setTimeout(resolve, 50));
            return violated > 0;
          }}
          return false;
        }}"""
    )
    assert refused


def test_markdown(chat: Chat):
    chat.answer_with_text(MARKDOWN)
    chat.ask("Show me")
    answer = chat.page.locator(".answer")
    expect(answer.get_by_role("heading", name="Title", level=3)).to_be_visible()
    for tag, text in (("strong", "bold"), ("em", "slanted"), ("del", "gone"), ("p code", "code")):
        expect(answer.locator(tag)).to_have_text(text)
    expect(answer.get_by_role("link")).to_have_text(["the page", "https://b.example", "a picture"])
    expect(answer.locator("ol > li")).to_have_count(2)
    expect(answer.locator("ol ul > li")).to_have_text("inner")
    boxes = answer.get_by_role("checkbox")
    expect(boxes.nth(0)).to_be_checked()
    expect(boxes.nth(1)).not_to_be_checked()
    expect(answer.locator("blockquote")).to_have_text("quoted")
    expect(answer.get_by_role("columnheader")).to_have_text(["name", "figure"])
    expect(answer.get_by_role("cell", name="1")).to_have_css("text-align", "right")
    expect(answer.locator(".code-word")).to_have_text(["def", "return"])
    expect(answer.get_by_role("separator")).to_have_count(1)
    assert answer.locator("img").count() == 0, "nothing is loaded from elsewhere"


def test_code_is_copied(chat: Chat):
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.answer_with_text(MARKDOWN)
    chat.ask("Show me")
    chat.named("button", "Copy code").click()
    expect(chat.named("button", "Copied")).to_be_visible()
    copied = chat.page.evaluate("navigator.clipboard.readText()")
    assert copied == 'def f(x):  # note\n    return "text", 42'
    expect(chat.named("button", "Copy code")).to_be_visible()
    chat.named("button", "Copy answer").click()
    chat.until("navigator.clipboard.readText().then((text) => text.startsWith('# Title'))")


def test_copying_works_without_a_clipboard(chat: Chat):
    """Over plain HTTP from another machine there is no navigator.clipboard."""
    chat.page.context.grant_permissions(["clipboard-read"])
    chat.page.evaluate(
        "Object.defineProperty(navigator.clipboard, 'writeText', {value: undefined})"
    )
    chat.answer_with_text("copied?")
    chat.ask("Show me")
    chat.named("button", "Copy answer").click()
    expect(chat.named("button", "Copied")).to_be_visible()
    assert chat.page.evaluate("navigator.clipboard.readText()") == "copied?"


@pytest.mark.parametrize("text", ["a\nb  c", "  <b>kept</b>\n\n\tindented", "&amp; *stars*"])
def test_what_a_person_wrote_is_shown_as_written(chat: Chat, text: str):
    chat.answer_with_text("yes")
    chat.ask(text)
    assert chat.page.locator(".bubble").text_content() == text
