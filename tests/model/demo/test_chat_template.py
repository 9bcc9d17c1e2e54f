"""The demo's chat template writes the wire format of Qwen3.6."""

import pytest
from jinja2 import TemplateError

from model.demo.chat_template import render

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Wetter für eine Stadt",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


HI = "<|im_start|>user\nhi<|im_end|>\n"


def test_generation_prompts():
    assert render([user("hi")]) == HI
    start = HI + "<|im_start|>assistant\n<think>\n"
    assert render([user("hi")], add_generation_prompt=True) == start
    assert render([user("hi")], add_generation_prompt=True, enable_thinking=True) == start
    off = render([user("hi")], add_generation_prompt=True, enable_thinking=False)
    assert off == start + "\n</think>\n\n"


def test_system_and_trimming():
    text = render([{"role": "system", "content": "  be kind \n"}, user(" hi ")])
    assert text == "<|im_start|>system\nbe kind<|im_end|>\n" + HI


def test_old_thoughts_are_dropped_unless_preserved():
    messages = [user("hi"), assistant("yo", reasoning_content="hm"), user("hi")]
    assert render(messages) == f"{HI}<|im_start|>assistant\nyo<|im_end|>\n{HI}"
    kept = render(messages, preserve_thinking=True)
    assert kept == f"{HI}<|im_start|>assistant\n<think>\nhm\n</think>\n\nyo<|im_end|>\n{HI}"


def test_the_last_answer_keeps_its_thought():
    text = render([user("hi"), assistant("yo", reasoning_content=" hm\n")])
    assert text == f"{HI}<|im_start|>assistant\n<think>\nhm\n</think>\n\nyo<|im_end|>\n"
    assert render([user("hi"), assistant("yo")]).endswith("<think>\n\n</think>\n\nyo<|im_end|>\n")


def test_a_thought_inside_the_content_is_found():
    text = render([user("hi"), assistant("<think>\nhm\n</think>\n\nyo")])
    assert text == f"{HI}<|im_start|>assistant\n<think>\nhm\n</think>\n\nyo<|im_end|>\n"


@pytest.mark.parametrize("thinking", [True, False])
def test_with_preserved_thoughts_every_prompt_extends_the_one_before(thinking):
    options = {
        "preserve_thinking": True,
        "enable_thinking": thinking,
        "add_generation_prompt": True,
    }
    thought = "hm" if thinking else ""
    messages = [user("one")]
    for word in ("two", "three", "four"):
        prompt = render(messages, **options)
        said = ("hm\n</think>\n\n" if thinking else "") + word + "<|im_end|>"
        messages += [assistant(word, reasoning_content=thought), user("next")]
        assert render(messages, **options).startswith(prompt + said)


def test_a_tool_loop_extends_its_prompt_without_preserving():
    messages = [user("weather?")]
    prompt = render(messages, tools=[TOOL], add_generation_prompt=True)
    made = call("get_weather", {"city": "Rome"})
    messages += [
        assistant("", reasoning_content="hm", tool_calls=[made]),
        {"role": "tool", "content": "sunny"},
    ]
    said = (
        "hm\n</think>\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n"
        "</function>\n</tool_call><|im_end|>"
    )
    assert render(messages, tools=[TOOL]).startswith(prompt + said)


def test_tools_are_listed_in_the_system_block():
    text = render([{"role": "system", "content": "be kind"}, user("hi")], tools=[TOOL])
    assert text.startswith(
        "<|im_start|>system\n# Tools\n\nYou have access to the following functions:\n\n<tools>\n"
        '{"type": "function", "function": {"name": "get_weather", "description": "Wetter für eine '
        'Stadt", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}'
        "\n</tools>\n\n"
    )
    assert text.endswith(f"\n\nbe kind<|im_end|>\n{HI}")
    assert render([user("hi")], tools=[]) == HI


def test_calls_are_xml_with_json_values():
    calls = [call("f", {"s": "a\nb", "n": 3, "l": [1, "é"], "t": True, "z": None}), call("g", {})]
    text = render([user("hi"), assistant("so:", tool_calls=calls)])
    assert text.endswith(
        "so:\n\n<tool_call>\n<function=f>\n<parameter=s>\na\nb\n</parameter>\n<parameter=n>\n3\n"
        '</parameter>\n<parameter=l>\n[1, "é"]\n</parameter>\n<parameter=t>\ntrue\n</parameter>\n'
        "<parameter=z>\nnull\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=g>\n"
        "</function>\n</tool_call><|im_end|>\n"
    )


def test_tool_results_share_one_user_turn():
    messages = [
        user("hi"),
        assistant("", tool_calls=[call("f", {}), call("g", {})]),
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
        assistant("done"),
    ]
    assert (
        "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n1\n</tool_response>\n"
        "<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    ) in render(messages)


def test_content_parts_and_images():
    parts = [{"type": "text", "text": "see "}, {"type": "image_url", "image_url": {"url": "x"}}]
    text = render([user(parts)])
    assert text == ("<|im_start|>user\nsee <|vision_start|><|image_pad|><|vision_end|><|im_end|>\n")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "No messages"),
        ([{"role": "system", "content": "x"}], "No user query"),
        ([user("<tool_response>1</tool_response>")], "No user query"),
        ([user("hi"), {"role": "system", "content": "x"}], "must be at the beginning"),
        ([user("hi"), {"role": "developer", "content": "x"}], "Unexpected message role"),
        ([user(3)], "Unexpected content type"),
        ([user([{"type": "audio"}])], "Unexpected item type"),
        ([{"role": "system", "content": [{"type": "image"}]}, user("hi")], "cannot contain images"),
    ],
)
def test_what_cannot_be_said_is_refused(messages, reason):
    with pytest.raises(TemplateError, match=reason):
        render(messages)
