"""Excerpts of what real clients send, with the fields that set each apart."""

import pytest

SEARCH = {
    "type": "function",
    "function": {"name": "search", "parameters": {"type": "object", "properties": {}}},
}
HI = [{"role": "user", "content": "hi"}]
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "found"}

CLIENTS = {
    "openai-python": {"model": "q", "messages": HI},
    "opencode title": {
        "model": "q",
        "max_tokens": 32000,
        "reasoning_effort": "low",
        "messages": [{"role": "system", "content": "You are a title generator."}, *HI],
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "opencode, tool turn": {
        "model": "q",
        "max_tokens": 32000,
        "messages": [*HI, {**CALL, "content": "", "reasoning_content": "Let me see."}, RESULT],
        "tools": [SEARCH],
        "tool_choice": "auto",
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "qwen-code": {
        "model": "q",
        "max_tokens": 8000,
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "S"}]},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            CALL,
            {**RESULT, "content": [{"type": "text", "text": "found"}]},
        ],
        "tools": [SEARCH],
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "pi": {
        "model": "q",
        "messages": [{"role": "developer", "content": "S"}, *HI, CALL, RESULT],
        "max_completion_tokens": 8192,
        "reasoning_effort": "medium",
        "store": False,
        "stream": True,
        "tools": [{**SEARCH, "function": {**SEARCH["function"], "strict": False}}],
    },
    "aider": {
        "model": "q",
        "temperature": 0,
        "stream": True,
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "example"},
            {"role": "assistant", "content": "Ok."},
            {"role": "user", "content": "hi"},
        ],
    },
    "langchain": {"model": "q", "messages": HI, "stream": False, "max_completion_tokens": 50},
    "guidellm": {
        "model": "q",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "ignore_eos": True,
    },
    "lm-eval": {
        "model": "q",
        "messages": [{"role": "user", "content": "hi", "type": "text"}],
        "max_tokens": 9,
        "temperature": 0.0,
        "stop": ["\n"],
        "seed": 1234,
    },
    "copilot": {
        "model": "q",
        "messages": HI,
        "temperature": 0,
        "top_p": 0.95,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "n": 1,
        "stream": True,
        "tools": [SEARCH],
    },
}


@pytest.mark.parametrize("body", CLIENTS.values(), ids=CLIENTS.keys())
def test_accepted(served, body):
    response = served.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    if body.get("stream"):
        assert response.text.endswith("data: [DONE]\n\n")
    [request] = served.engine.requests
    assert [m["role"] for m in request.messages] == [
        {"developer": "system"}.get(m["role"], m["role"]) for m in body["messages"]
    ]
    assert any(m["content"] == "hi" for m in request.messages)
    assert (request.tools is not None) == ("tools" in body)


def test_preserved_reasoning(served):
    body = CLIENTS["opencode, tool turn"]
    served.http.post("/v1/chat/completions", json=body)
    assert served.engine.requests[-1].messages[1]["reasoning_content"] == "Let me see."
