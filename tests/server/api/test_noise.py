"""Claude Code's billing header changes with every request and does not reach the prompt."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.messages import template_messages
from server.api.noise import without_noise

HEAD = "x-anthropic-billing-header: cc_version=2.1.197.84c; cc_entrypoint=sdk-cli;"
NONCE = f"{HEAD} cch=eb6c6;"
REST = "You are a helpful agent.\nBe brief."


@pytest.mark.parametrize("header", [HEAD, NONCE, NONCE.removesuffix(";")])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_the_line_is_left_out(header, end):
    assert without_noise(header + end + REST) == REST
    assert without_noise(header) == ""


def test_text_that_follows_on_its_line_stays():
    """The client sends the header as a part of its own; joined parts have no line end between."""
    assert without_noise(NONCE + REST) == REST
    assert without_noise(f"{NONCE} {REST}") == REST


@pytest.mark.parametrize(
    "text",
    [
        "x-anthropic-billing-header",
        "x-anthropic-billing-header:",
        "x-anthropic-billing-header: what is this?",
        f"Tell me of {NONCE}\n{REST}",
        f"\n{NONCE}",
        "x-other-header: a=b;\nYou",
    ],
)
def test_everything_else_stays(text):
    assert without_noise(text) == text


@given(st.text())
def test_any_text_behind_it_stays(rest):
    assert without_noise(f"{NONCE}\n{rest}") == rest


def messages(nonce):
    header = {"type": "text", "text": f"{HEAD} cch={nonce};"}
    system = [header, {"type": "text", "text": REST, "cache_control": {"type": "ephemeral"}}]
    return [{"role": "system", "content": system}, {"role": "user", "content": "Hi"}]


def test_36_two_requests_have_one_prompt():
    assert template_messages(messages("eb6c6")) == template_messages(messages("1c8b4"))
    assert template_messages(messages("eb6c6"))[0] == {"role": "system", "content": REST}


def test_a_developer_message_too():
    wire = [{"role": "developer", "content": f"{NONCE}\n{REST}"}, {"role": "user", "content": "Hi"}]
    assert template_messages(wire)[0]["content"] == REST


@pytest.mark.parametrize("role", ["user", "assistant", "tool"])
def test_who_asks_about_it_is_heard(role):
    wire = [{"role": "user", "content": "x"}, {"role": role, "content": NONCE}]
    assert NONCE in json.dumps(template_messages(wire))
