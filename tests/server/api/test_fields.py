"""What each request field becomes, and what is refused with which words."""

import pytest

from model.sampling import SamplingParams
from server.engine.request import Thinking


def refused(served, **fields):
    response = served.chat(**fields)
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_defaults_are_the_checkpoints(served):
    request = served.request()
    assert request.sampling == SamplingParams(temperature=0.7, top_p=0.8, top_k=20)
    assert request.thinking == Thinking(enabled=True, budget=None)
    assert (request.max_tokens, request.n, request.stop, request.tools) == (None, 1, (), None)


def test_every_sampling_field(served):
    request = served.request(
        temperature=0,
        top_p=0.5,
        top_k=-1,
        min_p=0.1,
        presence_penalty=-2,
        frequency_penalty=2,
        repetition_penalty=1.1,
        seed=-1,
        logit_bias={"17": -100, "3": 0.5},
    )
    assert request.sampling == SamplingParams(
        temperature=0,
        top_p=0.5,
        top_k=0,
        min_p=0.1,
        presence_penalty=-2,
        frequency_penalty=2,
        repetition_penalty=1.1,
        seed=2**63 - 1,
        logit_bias={17: -100, 3: 0.5},
    )


def test_null_is_absent(served):
    names = [
        "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "n",
        "seed", "logit_bias", "stop", "max_tokens", "max_completion_tokens", "stream",
        "stream_options", "reasoning_effort", "reasoning", "thinking", "tools", "tool_choice",
        "response_format", "logprobs", "top_logprobs", "chat_template_kwargs", "model", "functions",
        "function_call", "parallel_tool_calls", "guided_json", "guided_regex", "guided_choice",
        "guided_grammar", "structured_outputs", "json_schema", "grammar", "prompt_cache_key",
        "continue_final_message", "add_generation_prompt", "echo", "modalities",
    ]  # fmt: skip
    assert served.request(**dict.fromkeys(names)) == served.request()


def test_unknown_fields_are_ignored(served):
    extra = {
        "store": True, "metadata": {"a": "b"}, "parallel_tool_calls": True, "user": 3, "zzz": [1],
        "service_tier": "flex", "prediction": {"type": "content", "content": "x"}, "audio": None,
        "safety_identifier": "s", "verbosity": "low", "web_search_options": {}, "moderation": {},
        "prompt_cache_retention": "24h", "prompt_cache_options": {}, "logprobs": False,
        "top_logprobs": 0, "response_format": {"type": "text"}, "modalities": ["text"],
    }  # fmt: skip
    assert served.request(**extra) == served.request()


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 7, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 7, "max_completion_tokens": None}, 7),
        ({"max_tokens": 7, "max_completion_tokens": -1}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": None}, None),
    ],
)
def test_token_limits(served, fields, tokens):
    assert served.request(**fields).max_tokens == tokens


@pytest.mark.parametrize(("stop", "stops"), [("a", ("a",)), (["a", "b"], ("a", "b")), ([], ())])
def test_stops(served, stop, stops):
    assert served.request(stop=stop).stop == stops


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("n", 0, "n must be an integer from 1 to 8; got 0."),
        ("n", 9, "from 1 to 8"),
        ("n", 10**30, "from 1 to 8"),
        ("n", 2.5, "got 2.5"),
        ("n", "1", "got '1'"),
        ("n", True, "got true"),
        ("max_tokens", 0, "max_tokens must be an integer from 1"),
        ("max_tokens", -2, "got -2"),
        ("max_tokens", 10**12, "got 1000000000000"),
        ("max_tokens", True, "got true"),
        ("max_completion_tokens", "5", "max_completion_tokens must be an integer"),
        ("temperature", -0.1, "temperature must be a number from 0 to 2; got -0.1."),
        ("temperature", 2.01, "from 0 to 2"),
        ("temperature", "hot", "got 'hot'"),
        ("temperature", False, "got false"),
        ("temperature", [1], "got a list of 1"),
        ("top_p", 0, "above 0"),
        ("top_p", 1.5, "up to 1"),
        ("top_k", -2, "top_k must be an integer"),
        ("min_p", 2, "min_p must be a number from 0 to 1"),
        ("presence_penalty", 3, "from -2 to 2"),
        ("frequency_penalty", -3, "from -2 to 2"),
        ("repetition_penalty", 0, "0.01 to 10"),
        ("repetition_penalty", 1e-300, "0.01 to 10"),
        ("seed", 2**70, "2^63"),
        ("seed", 1.5, "an integer"),
        ("stop", "", "1 to 1024 characters"),
        ("stop", ["a"] * 17, "up to 16"),
        ("stop", ["a", 1], "strings"),
        ("stop", "x" * 1025, "1 to 1024"),
        ("logit_bias", {"1": 101}, "-100 to 100"),
        ("logit_bias", {"x": 1}, "token ids"),
        ("logit_bias", {"-1": 1}, "token ids"),
        ("logit_bias", {str(i): 1 for i in range(1025)}, "up to 1024"),
        ("logit_bias", [], "an object"),
        ("stream", "yes", "stream must be true, false or null; got 'yes'."),
        ("stream_options", True, "an object"),
        ("messages", [], "non-empty"),
        ("messages", [{}] * 10_001, "up to 10000 messages; got a list of 10001"),
        ("top_logprobs", 21, "from 0 to 20"),
        ("top_logprobs", 3, "needs logprobs"),
        ("logprobs", 1, "true, false or null"),
        ("parallel_tool_calls", "no", "true, false or null"),
        ("prompt_cache_key", "k" * 1025, "up to 1024 characters"),
        ("functions", {}, "a list of functions"),
        ("function_call", {"name": "f"}, "function_call needs functions"),
        ("add_generation_prompt", False, "only with continue_final_message"),
        ("continue_final_message", True, "a last message of the assistant"),
        ("echo", True, "needs continue_final_message"),
        ("messages", "hi", "got 'hi'"),
        ("messages", None, "got null"),
        ("tools", {}, "a list"),
        ("modalities", ["text", "audio"], '["text"]'),
        ("model", 5, "a string"),
        ("thinking_budget", -2, "thinking_budget must be"),
        ("thinking", "on", "an object"),
        ("reasoning_effort", "huge", "none, minimal, low, medium, high, xhigh, max; got 'huge'."),
        ("reasoning_effort", "", "must be one of"),
        ("reasoning_effort", 5, "got 5"),
        ("reasoning_effort", ["low"], "must be one of"),
    ],
)
def test_out_of_range(served, field, value, words):
    error = refused(served, **{field: value})
    assert error["param"] == field
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"thinking": {"budget_tokens": -5}}, "thinking.budget_tokens"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"chat_template_kwargs": {"enable_thinking": "no"}},
         "chat_template_kwargs.enable_thinking"),
    ],
)  # fmt: skip
def test_nested_fields_are_named(served, fields, param):
    error = refused(served, **fields)
    assert error["param"] == param
    assert error["message"].startswith(f"{param} must be ")


def test_missing_messages(served):
    response = served.http.post("/v1/chat/completions", json={"model": "q"})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "messages")
    assert error["message"] == "messages is required."


@pytest.mark.parametrize("key", ["messages", "tokenize", "add_generation_prompt", "__class__"])
def test_template_options_are_a_closed_list(served, key):
    error = refused(served, chat_template_kwargs={key: True})
    assert f"chat_template_kwargs.{key} is not supported" in error["message"]
    assert "enable_thinking, preserve_thinking" in error["message"]


def test_a_template_of_the_clients_is_refused(served):
    for path in ("/v1/chat/completions", "/apply-template", "/tokenize"):
        body = {"messages": [{"role": "user", "content": "x"}], "chat_template": "{{ 7 * 6 }}"}
        reply = served.http.post(path, json=body)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "chat_template")
        assert served.http.post(path, json={**body, "chat_template": None}).status_code == 200


OFF = Thinking(enabled=False)
FREE = Thinking(enabled=True, budget=None)


def budget(tokens):
    return Thinking(enabled=True, budget=tokens)


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({"reasoning_effort": "none"}, OFF),
        ({"reasoning_effort": "minimal"}, budget(256)),
        ({"reasoning_effort": "low"}, budget(1024)),
        ({"reasoning_effort": "medium"}, budget(4096)),
        ({"reasoning_effort": "high"}, budget(16384)),
        ({"reasoning_effort": "xhigh"}, FREE),
        ({"reasoning_effort": "max"}, FREE),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, budget(1024)),
        ({"reasoning": {"effort": "none"}}, OFF),
        ({"reasoning": {"max_tokens": 99}}, budget(99)),
        ({"reasoning": {"enabled": False}}, OFF),
        ({"chat_template_kwargs": {"enable_thinking": False}}, OFF),
        ({"chat_template_kwargs": {"enable_thinking": True}}, FREE),
        ({"enable_thinking": False}, OFF),
        ({"thinking_budget": 50}, budget(50)),
        ({"thinking_budget": 0}, OFF),
        ({"thinking_budget": -1}, FREE),
        ({"thinking": {"type": "disabled"}}, OFF),
        ({"thinking": {"type": "adaptive"}}, FREE),
        ({"thinking": {"type": "enabled", "budget_tokens": 77}}, budget(77)),
        ({"thinking": {"type": "disabled", "budget_tokens": 77}}, OFF),
        ({"reasoning_effort": "high", "thinking_budget": 10}, budget(10)),
        ({"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}, OFF),
        ({"reasoning_effort": "none", "enable_thinking": True}, OFF),
    ],
)
def test_thinking(served, fields, thinking):
    assert served.request(**fields).thinking == thinking


def test_preserve_thinking(served):
    assert served.request().preserve_thinking is None
    request = served.request(chat_template_kwargs={"preserve_thinking": True})
    assert request.preserve_thinking is True


def test_session_hints(served):
    assert served.request().session is None
    assert served.request(prompt_cache_key="k").session == "k"
    body = {"messages": [{"role": "user", "content": "x"}]}
    served.http.post("/v1/chat/completions", json=body, headers={"X-Session-Id": "s"})
    assert served.engine.requests[-1].session == "s"
