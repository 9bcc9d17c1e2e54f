"""What clients need of chats and completions, by the numbers of the list of forty behaviours: those
that take a model, asked of the embedded demo on a real port."""

import json
import re
import threading
from typing import Any

import httpx
import jsonschema
import pytest

FRANCE = "What is the capital of France?"
TAGS = ("<tool_call>", "</tool_call>", "<function=", "<think>", "</think>", "<|im_end|>", "<|im_")


def tool(name, properties, required=None):
    schema = {"type": "object", "properties": properties, "required": required or list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


WEATHER = tool("get_weather", {"city": {"type": "string"}})
TIME = tool("get_time", {"city": {"type": "string"}})


@pytest.fixture(scope="module")
def http(live_server):
    with httpx.Client(base_url=live_server.url, timeout=120) as client:
        yield client


def post(http, path, **body) -> Any:
    response = http.post(path, json={"temperature": 0, "max_tokens": 400, **body})
    assert response.status_code == 200, response.text
    return response.json()


def chat(http, text: Any = FRANCE, **fields) -> Any:
    """The one choice of a whole answer; with `stream` joined from its chunks."""
    messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
    body = {"messages": messages, "temperature": 0, "max_tokens": 400, **fields}
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    if not fields.get("stream"):
        return response.json()["choices"][0]
    frames = [part for part in response.text.split("\n\n") if part.startswith("data: {")]
    choices = [json.loads(frame[6:])["choices"][0] for frame in frames]
    message: dict[str, Any] = {"deltas": [choice["delta"] for choice in choices]}
    for name in ("content", "reasoning_content"):
        message[name] = "".join(delta.get(name) or "" for delta in message["deltas"])
    return {"message": message, "finish_reason": choices[-1]["finish_reason"]}


def calls_of(choice):
    calls = choice["message"].get("tool_calls", [])
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]


def rendered(http, messages, **fields):
    return post(http, "/apply-template", messages=messages, **fields)["prompt"]


def test_02_streamed_arguments_join_to_json(http):
    choice = chat(http, "What is the weather in Paris?", tools=[WEATHER], stream=True)
    deltas = [d for delta in choice["message"]["deltas"] for d in delta.get("tool_calls", [])]
    assert deltas[0]["function"]["name"] == "get_weather"
    assert [delta["index"] for delta in deltas] == [0] * len(deltas)
    assert not any("id" in delta or "name" in delta["function"] for delta in deltas[1:])
    joined = "".join(delta["function"]["arguments"] for delta in deltas)
    assert json.loads(joined) == {"city": "Paris"}
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_03_finish_reasons(http, stream):
    question = "What is the weather in Paris?"
    called = chat(http, question, tools=[WEATHER], stream=stream)
    assert called["finish_reason"] == "tool_calls"
    assert chat(http, stream=stream)["finish_reason"] == "stop"
    assert chat(http, stream=stream, max_tokens=3)["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("effort", ["none", "low"])
@pytest.mark.parametrize("text", [FRANCE, "What is the weather in Paris?", "Repeat: <think> a"])
def test_04_no_tag_in_the_content(http, text, effort, stream):
    tools = [WEATHER] if "weather" in text else None
    message = chat(http, text, tools=tools, reasoning_effort=effort, stream=stream)["message"]
    if "Repeat" not in text:
        assert not any(tag in (message["content"] or "") for tag in TAGS)
    assert not any(tag in message.get("reasoning_content", "") for tag in TAGS)
    assert "<|im_end|>" not in (message["content"] or "")


def test_05_reasoning_has_its_own_field(http):
    message = chat(http, reasoning_effort="low")["message"]
    assert message["reasoning_content"]
    assert "Paris" in message["content"]
    streamed = chat(http, reasoning_effort="low", stream=True)["message"]
    assert streamed["reasoning_content"] == message["reasoning_content"]
    assert streamed["content"] == message["content"]


def test_06_instructions_anywhere_reach_the_model(http):
    messages = [
        {"role": "developer", "content": "ALPHA"},
        {"role": "system", "content": "BETA"},
        {"role": "user", "content": FRANCE},
        {"role": "assistant", "content": "Paris."},
        {"role": "developer", "content": "GAMMA"},
        {"role": "user", "content": "And Italy?"},
    ]
    prompt = rendered(http, messages)
    places = [prompt.index(word) for word in ("ALPHA", "BETA", FRANCE, "GAMMA", "And Italy?")]
    assert places == sorted(places)
    assert chat(http, messages)["message"]["content"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_09_context_overflow_is_a_400(http, path, stream):
    text = "word " * 200_000
    body = {"messages": [{"role": "user", "content": text}], "prompt": text, "stream": stream}
    response = http.post(path, json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length is 131072 tokens" in error["message"]


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}])
def test_13_history_with_calls_is_rendered(http, content):
    call = {"id": "c", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    result = [{"type": "text", "text": "21 degrees"}]
    messages = [
        {"role": "user", "content": "What is the weather in Oslo?"},
        {"role": "assistant", "tool_calls": [call], **content},
        {"role": "tool", "tool_call_id": "c", "content": result},
    ]
    prompt = rendered(http, messages, tools=[WEATHER])
    assert "<function=get_weather>\n<parameter=city>\nOslo\n</parameter>" in prompt
    assert "21 degrees" in prompt
    assert "None" not in prompt


def test_15_usage_of_a_cached_prompt(http):
    messages = [{"role": "user", "content": "What is the capital of Norway, by the way?"}]
    post(http, "/v1/chat/completions", messages=messages)
    usage = post(http, "/v1/chat/completions", messages=messages)["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"]
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]
    count = len(post(http, "/tokenize", messages=messages)["tokens"])
    assert count == usage["prompt_tokens"]


def test_15_usage_in_every_chunk_is_cumulative(http):
    body = {
        "messages": [{"role": "user", "content": FRANCE}],
        "stream": True,
        "temperature": 0,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    text = http.post("/v1/chat/completions", json=body).text
    parts = [json.loads(part[6:]) for part in text.split("\n\n") if part.startswith("data: {")]
    counts = [part["usage"]["completion_tokens"] for part in parts]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert 0 < counts[len(counts) // 2] < counts[-1] == counts[-2]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_16_the_limit_counts_reasoning(http, name):
    messages = [{"role": "user", "content": FRANCE}]
    answer = post(http, "/v1/chat/completions", messages=messages, **{name: 3})
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3
    assert answer["choices"][0]["message"]["content"] == ""


@pytest.mark.parametrize(
    "off",
    [
        {"reasoning_effort": "none"},
        {"reasoning": {"effort": "none"}},
        {"thinking": {"type": "disabled"}},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"enable_thinking": False},
        {"thinking_budget": 0},
    ],
)
def test_17_thinking_turned_off(http, off):
    message = chat(http, **off)["message"]
    assert "reasoning_content" not in message
    assert "Paris" in message["content"]


@pytest.mark.parametrize("effort", ["none", "low"])
def test_18_no_call_where_none_is_wanted(http, effort):
    question = "What is the weather in Paris?"
    choice = chat(
        http, question, tools=[WEATHER], tool_choice="none", reasoning_effort=effort, max_tokens=60
    )
    assert calls_of(choice) == []
    assert choice["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("effort", ["none", "low"])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "get_time"}),
        ({"type": "function", "function": {"name": "get_time"}}, {"get_time"}),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"name": "get_time"}]},
            },
            {"get_time"},
        ),
    ],
)
def test_18_a_call_where_one_is_wanted(http, choice, names, effort):
    answer = chat(
        http,
        "Who are you?",
        tools=[WEATHER, TIME],
        tool_choice=choice,
        parallel_tool_calls=False,
        reasoning_effort=effort,
    )
    [(name, arguments)] = calls_of(answer)
    assert name in names
    assert set(arguments) == {"city"}
    assert isinstance(arguments["city"], str)
    assert answer["finish_reason"] == "tool_calls"


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("effort", ["none", "low"])
@pytest.mark.parametrize("strict", [True, None])
def test_19_json_schema(http, strict, effort, stream):
    form = {"name": "person", "schema": PERSON, "strict": strict}
    wanted = {"type": "json_schema", "json_schema": form}
    message = chat(http, response_format=wanted, reasoning_effort=effort, stream=stream)["message"]
    jsonschema.validate(json.loads(message["content"]), PERSON)
    assert bool(message.get("reasoning_content")) == (effort == "low")


def test_19_json_object(http):
    choice = chat(
        http,
        "Give the capital of Spain as JSON.",
        response_format={"type": "json_object"},
        reasoning_effort="none",
    )
    assert isinstance(json.loads(choice["message"]["content"]), dict)


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_choice": ["blue", "red"]},
        {"guided_regex": "blue|red"},
        {"structured_outputs": {"grammar": 'start: "blue" | "red"'}},
        {"grammar": 'root ::= "blue" | "red"'},
    ],
)
def test_19_other_grammars(http, fields):
    message = chat(http, reasoning_effort="none", **fields)["message"]
    assert message["content"] in ("blue", "red")
    text = post(http, "/v1/completions", prompt="x", **fields)["choices"][0]["text"]
    assert text in ("blue", "red")


def test_25_one_call_at_most_without_parallel_calls(http):
    question = "What is the weather in Paris, and what is the weather in Rome?"
    for choice in ("auto", "required"):
        answer = chat(
            http, question, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False
        )
        assert len(calls_of(answer)) <= 1


def test_26_arguments_have_the_types_of_the_schema(http):
    properties = {
        "code": {"type": "string", "enum": ["007"]},
        "flag": {"type": "string", "enum": ["true"]},
        "count": {"type": "integer", "minimum": 3, "maximum": 5},
        "on": {"type": "boolean"},
        "list": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 1, "maxItems": 2},
        "inner": {
            "type": "object",
            "properties": {"a": {"const": 1}},
            "required": ["a"],
            "additionalProperties": False,
        },
        "nothing": {"type": "null"},
    }
    offered = tool("set", properties)
    answer = chat(
        http, "Set it.", tools=[offered], tool_choice="required", parallel_tool_calls=False
    )
    [(_, arguments)] = calls_of(answer)
    jsonschema.validate(arguments, offered["function"]["parameters"])
    assert (arguments["code"], arguments["flag"], arguments["nothing"]) == ("007", "true", None)


@pytest.mark.parametrize("stream", [False, True])
def test_29_a_stop_string_over_token_borders(http, stream):
    whole = chat(http, reasoning_effort="none")["message"]["content"]
    assert "capital of France" in whole
    for stop in ("ital of Fra", ["zzz", "l o"]):
        choice = chat(http, reasoning_effort="none", stop=stop, stream=stream)
        first = stop if isinstance(stop, str) else stop[1]
        assert choice["message"]["content"] == whole[: whole.index(first)]
        assert choice["finish_reason"] == "stop"


def test_29_a_stop_string_in_the_reasoning_stops_nothing(http):
    message = chat(http, reasoning_effort="low", stop="Paris")["message"]
    assert "Paris" in message["reasoning_content"]
    assert message["content"]
    assert "Paris" not in message["content"]


def test_30_no_character_is_split(http):
    pattern = "(🗼|é|漢字|👩‍🚀){8}"
    fields: Any = {"guided_regex": pattern, "reasoning_effort": "none"}
    whole = chat(http, **fields)["message"]["content"]
    assert re.fullmatch(pattern, whole)
    message = chat(http, stream=True, **fields)["message"]
    assert message["content"] == whole
    assert not any("�" in (delta.get("content") or "") for delta in message["deltas"])
    assert len(message["deltas"]) > 3


def test_31_a_title_and_an_answer_at_once(http):
    said: dict[str, str] = {}

    def ask(name, text):
        said[name] = chat(http, text, stream=True)["message"]["content"]

    title = threading.Thread(target=ask, args=("title", "Say tiger three times."))
    main = threading.Thread(target=ask, args=("main", FRANCE))
    for thread in (title, main):
        thread.start()
    for thread in (title, main):
        thread.join(60)
    assert "Paris" in said["main"]
    assert "tiger" in said["title"]


def test_32_equal_requests_have_equal_answers(http):
    first, second = (chat(http)["message"] for _ in range(2))
    assert first == second
    warm = {"temperature": 1.5, "seed": 11}
    first, second = (chat(http, **warm, max_tokens=40)["message"] for _ in range(2))
    assert first == second


EXTREMES: Any = [
    {"temperature": 5e-324},
    {"temperature": 2, "top_p": 1e-300, "min_p": 1, "top_k": 2**31 - 1},
    {"min_p": 5e-324, "seed": -(2**63)},
    {"repetition_penalty": 0.01},
    {"repetition_penalty": 10, "presence_penalty": 2, "frequency_penalty": 2, "seed": 2**63 - 1},
    {"presence_penalty": -2, "frequency_penalty": -2},
    {"logit_bias": {"5": 100, "6": -100}},
]


@pytest.mark.parametrize("extreme", EXTREMES)
def test_32_every_value_that_is_taken_has_an_answer(http, extreme):
    chat(http, reasoning_effort="none", **{"max_tokens": 20, **extreme})


def test_33_choices_and_log_probabilities(http):
    messages = [{"role": "user", "content": FRANCE}]
    fields: Any = {"logprobs": True, "top_logprobs": 3, "n": 2}
    for choice in post(http, "/v1/chat/completions", messages=messages, **fields)["choices"]:
        entries = choice["logprobs"]["content"]
        joined = b"".join(bytes(entry["bytes"]) for entry in entries).decode()
        assert joined == choice["message"]["content"]
        assert all(len(entry["top_logprobs"]) == 3 for entry in entries)
        assert all(entry["logprob"] <= 0 for entry in entries)
        assert all(e["top_logprobs"][0]["logprob"] == e["logprob"] for e in entries)


def test_33_scoring_gives_what_generating_gave(http):
    prompt = post(http, "/apply-template", messages=[{"role": "user", "content": FRANCE}])["prompt"]
    made = post(http, "/v1/completions", prompt=prompt, logprobs=2, max_tokens=8)["choices"][0]
    assert "".join(made["logprobs"]["tokens"]) == made["text"]
    fields: Any = {"echo": True, "logprobs": 2, "max_tokens": 0}
    scored = post(http, "/v1/completions", prompt=prompt + made["text"], **fields)["choices"][0]
    assert scored["text"] == prompt + made["text"]
    lists = scored["logprobs"]
    assert lists["token_logprobs"][0] is None
    assert "".join(lists["tokens"]) == scored["text"]
    assert lists["tokens"][-8:] == made["logprobs"]["tokens"]
    for one, other in zip(
        lists["token_logprobs"][-8:], made["logprobs"]["token_logprobs"], strict=True
    ):
        assert one == pytest.approx(other, abs=0.05)
    for offset, text in zip(lists["text_offset"], lists["tokens"], strict=True):
        assert scored["text"].startswith(text, offset)


def test_33_no_suffix_without_the_tokens_for_it(http):
    response = http.post("/v1/completions", json={"prompt": "a", "suffix": "b"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "suffix"


def test_38_completions(http):
    text = "What is the capital of"
    tokens = post(http, "/tokenize", prompt=text)["tokens"]
    answers = [
        post(http, "/v1/completions", prompt=prompt, max_tokens=6)["choices"]
        for prompt in (text, [text, text], tokens, [tokens])
    ]
    assert [len(choices) for choices in answers] == [1, 2, 1, 1]
    assert len({choice["text"] for choices in answers for choice in choices}) == 1
    body = {"prompt": text, "max_tokens": 6, "temperature": 0, "stream": True, "echo": True}
    body["stream_options"] = {"include_usage": True}
    frames = [f[6:] for f in http.post("/v1/completions", json=body).text.split("\n\n")[:-1]]
    assert frames.pop() == "[DONE]"
    parts = [json.loads(frame) for frame in frames]
    joined = "".join(part["choices"][0]["text"] for part in parts[:-1])
    assert joined == text + answers[0][0]["text"]
    assert parts[-1]["usage"]["completion_tokens"] == 6


def test_40_one_connection_for_many_streams(live_server):
    with httpx.Client(base_url=live_server.url, timeout=60) as http:
        for _ in range(3):
            chat(http, stream=True, reasoning_effort="none")
        assert len(http._transport._pool.connections) == 1  # type: ignore[attr-defined]
