"""Text completions over a real port: prompts in every form, echo, log probabilities, streams."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import Completion

from server.engine.errors import ContextOverflow, QueueFull, StepFailed
from server.engine.events import (
    ContentDelta,
    Event,
    Failed,
    PromptLogprobs,
    Started,
    TokenLogprob,
    TopLogprob,
)
from server.engine.request import GrammarSpec


def complete(served, **fields):
    return served.http.post("/v1/completions", json={"prompt": "ab", **fields})


def refused(served, status=400, **fields):
    response = complete(served, **fields)
    assert response.status_code == status, response.text
    return response.json()["error"]


def token(text, logprob=-0.5, *others):
    top = tuple(TopLogprob(o, o.encode(), -1.0 - i, i) for i, o in enumerate(others))
    return TokenLogprob(text, text.encode(), logprob, 7, top)


def text_script(scripts, *texts, **counts):
    events = [ContentDelta(0, text, tokens=i + 1) for i, text in enumerate(texts)]
    usage = {"reasoning_tokens": 0, "completion_tokens": len(texts), **counts}
    return [Started(2, 1), *events, scripts.finished(**usage)]


def chunks(response):
    assert response.status_code == 200, response.text
    frames = [part.removeprefix("data: ") for part in response.text.split("\n\n")[:-1]]
    assert frames.pop() == "[DONE]"
    return [json.loads(frame) for frame in frames]


def test_whole(served, scripts):
    served.engine.script = text_script(scripts, "c", "d")
    response = complete(served)
    Completion.model_validate_json(response.text, strict=True)
    body = response.json()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["choices"] == [
        {"index": 0, "text": "cd", "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"]["total_tokens"] == 13
    [request] = served.engine.requests
    assert (request.prompt, request.messages, request.max_tokens) == ("ab", [], 16)
    assert not request.thinks


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("ab", ["ab"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1], [2, 3]], [(1,), (2, 3)]),
    ],
)
def test_prompts(served, prompt, prompts):
    body = complete(served, prompt=prompt).json()
    assert [request.prompt for request in served.engine.requests] == prompts
    assert [choice["index"] for choice in body["choices"]] == list(range(len(prompts)))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": [[1], "a"]}, "prompt[1]"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": ["a"] * 1025}, "prompt"),
        ({"prompt": ["a"] * 513, "n": 2}, "prompt"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"echo": "yes"}, "echo"),
        ({"suffix": 1}, "suffix"),
        ({"suffix": "x", "echo": True}, "echo"),
        ({"n": 9}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"guided_regex": ""}, "guided_regex"),
    ],
)
def test_refused(served, fields, param):
    assert refused(served, **fields)["param"] == param


def test_missing_prompt(served):
    error = served.http.post("/v1/completions", json={}).json()["error"]
    assert (error["param"], error["code"]) == ("prompt", "missing_required_parameter")


def test_too_long_names_the_prompt(served):
    served.engine.refusal = ContextOverflow(4096, 5000, 16)
    error = refused(served)
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
    assert "maximum context length is 4096 tokens" in error["message"]


@pytest.mark.parametrize(
    ("given", "limit"), [(None, 16), (5, 5), (-1, None), (0, 1)], ids=["default", "5", "-1", "0"]
)
def test_token_limits(served, given, limit):
    complete(served, max_tokens=given)
    assert served.engine.requests[-1].max_tokens == limit


def test_sampling_stops_and_grammar_reach_the_engine(served):
    assert complete(
        served, temperature=0, seed=3, stop=["x"], n=2, best_of=2, guided_choice=["a", "b"]
    )
    [request] = served.engine.requests
    assert (request.sampling.temperature, request.sampling.seed) == (0, 3)
    assert (request.stop, request.n) == (("x",), 2)
    assert request.grammar == GrammarSpec("choice", ["a", "b"], "guided_choice")


def test_choices_are_in_the_order_of_prompts(served, scripts):
    def script(name):
        return [
            Started(3, 1),
            ContentDelta(1, f"{name}1"),
            ContentDelta(0, f"{name}0"),
            scripts.finished(1, prompt_tokens=3),
            scripts.finished(0, prompt_tokens=3),
        ]

    served.engine.scripts = [script("a"), script("b")]
    body = complete(served, prompt=["a", "b"], n=2).json()
    assert [choice["text"] for choice in body["choices"]] == ["a0", "a1", "b0", "b1"]
    assert body["usage"]["prompt_tokens"] == 6
    assert body["usage"]["completion_tokens"] == 20
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 14}


def test_many_prompts_run_a_few_at_a_time(served, scripts):
    served.engine.script = [0.01, *text_script(scripts, "x")]
    body = complete(served, prompt=["p"] * 40).json()
    assert len(body["choices"]) == 40
    assert all(choice["text"] == "x" for choice in body["choices"])


@pytest.mark.parametrize("stream", [False, True])
def test_one_failure_ends_all(served, stream):
    slow = [Started(1, 0), 60]
    served.engine.scripts = [slow, [Started(1, 0), 0.3, Failed(StepFailed("broken"))], slow]
    response = complete(served, prompt=["a", "b", "c"], stream=stream)
    if stream:
        assert json.loads(response.text.split("\n\n")[-2][6:])["error"]["code"] == "step_failed"
    else:
        assert response.status_code == 500
    assert all(source.cancelled.wait(2) for source in served.engine.streams)


def test_a_refused_prompt_cancels_those_before_it(served, monkeypatch):
    submit, calls = served.engine.submit, []

    async def full_at_the_third(request):
        calls.append(request)
        if len(calls) == 3:
            raise QueueFull(4)
        return await submit(request)

    monkeypatch.setattr(served.engine, "submit", full_at_the_third)
    served.engine.script = [60]
    assert refused(served, status=429, prompt=["a", "b", "c"])["code"] == "queue_full"
    assert all(source.cancelled.wait(2) for source in served.engine.streams)


def test_a_prompt_refused_later_fails_the_request(served, monkeypatch):
    submit, calls = served.engine.submit, []

    async def too_long_at_the_last(request):
        calls.append(request)
        if len(calls) == 20:
            raise ContextOverflow(4096, 5000)
        return await submit(request)

    monkeypatch.setattr(served.engine, "submit", too_long_at_the_last)
    error = refused(served, prompt=["p"] * 20)
    assert error["code"] == "context_length_exceeded"


def test_stream(served, scripts):
    served.engine.script = text_script(scripts, "c", "d", "🗼")
    parts = chunks(complete(served, stream=True))
    assert len({(part["id"], part["created"], part["model"]) for part in parts}) == 1
    assert "".join(part["choices"][0]["text"] for part in parts) == "cd🗼"
    assert [part["choices"][0]["finish_reason"] for part in parts] == [None, None, None, "stop"]
    assert all("usage" not in part for part in parts)


def test_stream_with_usage(served, scripts):
    served.engine.script = text_script(scripts, "c", "d")
    parts = chunks(complete(served, stream=True, stream_options={"include_usage": True}))
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"]["completion_tokens"] == 2
    assert all(part["usage"] is None for part in parts[:-1])


def test_stream_with_usage_in_every_chunk(served, scripts):
    served.engine.script = text_script(scripts, "c", "d")
    options = {"include_usage": True, "continuous_usage_stats": True}
    parts = chunks(complete(served, stream=True, stream_options=options))
    assert [part["usage"]["completion_tokens"] for part in parts] == [1, 2, 2, 2]
    assert [part["usage"]["prompt_tokens"] for part in parts] == [2, 2, 2, 11]


@pytest.mark.parametrize("prompt", ["ab", [97, 98]])
@pytest.mark.parametrize("stream", [False, True])
def test_echo(served, scripts, prompt, stream):
    served.engine.script = text_script(scripts, "c")
    response = complete(served, prompt=prompt, echo=True, stream=stream)
    if stream:
        assert [part["choices"][0]["text"] for part in chunks(response)] == ["ab", "c", ""]
    else:
        assert response.json()["choices"][0]["text"] == "abc"


def scoring(scripts):
    return [
        Started(2, 0),
        PromptLogprobs((None, token("b", -0.25, "b", "z", "y"))),
        ContentDelta(0, "c", (token("c", float("-inf"), "x"),)),
        scripts.finished(reason="length", completion_tokens=1, prompt_tokens=2),
    ]


def test_echo_with_logprobs(served, scripts):
    served.engine.script = scoring(scripts)
    body = complete(served, echo=True, logprobs=2, max_tokens=1).json()
    assert body["choices"][0]["text"] == "abc"
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [None, -0.25, -9999.0],
        "top_logprobs": [None, {"b": -1.0, "z": -2.0}, {"x": -1.0, "c": -9999.0}],
        "text_offset": [0, 1, 2],
    }
    [request] = served.engine.requests
    assert (request.logprobs, request.prompt_logprobs, request.prompt) == (2, 2, (97, 98))


@pytest.mark.parametrize("stream", [False, True])
def test_scoring_without_an_answer(served, scripts, stream):
    served.engine.script = scoring(scripts)
    response = complete(served, echo=True, logprobs=1, max_tokens=0, stream=stream)
    if stream:
        first, last = (part["choices"][0] for part in chunks(response))
        assert first["logprobs"]["token_logprobs"] == [None, -0.25]
        assert (first["text"], last["text"], last["finish_reason"]) == ("ab", "", "length")
        return
    body = response.json()
    assert body["choices"][0]["text"] == "ab"
    assert body["choices"][0]["logprobs"]["tokens"] == ["a", "b"]
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 0
    assert body["usage"]["total_tokens"] == 2


def test_logprobs_of_the_answer_only(served, scripts):
    served.engine.script = [
        Started(2, 0),
        ContentDelta(0, "", (TokenLogprob("�", b"\xe2\x82", -0.1, 5),)),
        ContentDelta(0, "€x", (TokenLogprob("�", b"\xac", -0.2, 6), token("x"))),
        scripts.finished(),
    ]
    lists = complete(served, logprobs=0).json()["choices"][0]["logprobs"]
    assert lists["tokens"] == ["bytes:\\xe2\\x82", "bytes:\\xac", "x"]
    assert lists["text_offset"] == [0, 0, 1]
    assert served.engine.requests[-1].prompt_logprobs is None


def test_fill_in_the_middle(served):
    complete(served, prompt="a<|im_end|>", suffix="b<|fim_middle|>")
    [request] = served.engine.requests
    assert request.prompt == (257, *b"a<|im_end|>", 258, *b"b<|fim_middle|>", 259)
    complete(served, prompt=[1, 2], suffix="")
    assert served.engine.requests[-1].prompt == (257, 1, 2, 258, 259)


def test_no_filling_without_the_tokens(served):
    served.engine.controls = ("<|im_end|>",)
    error = refused(served, suffix="b")
    assert (error["param"], error["code"]) == ("suffix", "unsupported_parameter")
    assert "<|fim_prefix|>" in error["message"]


@pytest.mark.parametrize("path", ["/completions", "/v1/completions/"])
def test_other_paths(served, path):
    assert served.http.post(path, json={"prompt": "a"}).status_code == 200


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    answers=st.lists(st.lists(TEXT, max_size=4), min_size=1, max_size=3),
    logprobs=st.booleans(),
    echo=st.booleans(),
)
def test_chunks_join_to_the_whole(served, scripts, answers, logprobs, echo):
    def script(texts):
        start: list[Event] = [Started(1, 0)]
        if logprobs and echo:
            start.append(PromptLogprobs((None,)))
        told = [ContentDelta(0, text, (token(text),) if logprobs else ()) for text in texts]
        return [*start, *told, scripts.finished()]

    fields = {"prompt": ["p"] * len(answers), "echo": echo, "logprobs": 1 if logprobs else None}
    bodies = []
    for stream in (False, True):
        served.engine.requests.clear()
        served.engine.scripts = [script(texts) for texts in answers]
        bodies.append(complete(served, stream=stream, **fields))
    whole = bodies[0].json()["choices"]
    parts = [part["choices"][0] for part in chunks(bodies[1])]
    for index, choice in enumerate(whole):
        mine = [part for part in parts if part["index"] == index]
        assert "".join(part["text"] for part in mine) == choice["text"]
        assert choice["text"] == ("p" if echo else "") + "".join(answers[index])
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        if logprobs:
            lists = [part["logprobs"] for part in mine if part["logprobs"]]
            for name, values in choice["logprobs"].items():
                assert [value for part in lists for value in part[name]] == values
