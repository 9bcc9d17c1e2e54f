"""Fields of /v1/responses: what each becomes in the engine's request, and what is a mistake."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.api.responses_schema import ResponsesRequest
from server.engine.errors import ContextOverflow, InvalidRequest, QueueFull
from server.engine.request import GrammarSpec, Thinking, ToolChoice

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "weather", "description": "Weather", "parameters": SCHEMA}
GEO = {"type": "namespace", "name": "geo", "description": "Geography", "tools": [WEATHER]}


@pytest.fixture
def post(served):
    def send(path="/v1/responses", headers=None, **fields):
        body = {"model": "m", "input": "Hi", **fields}
        return served.http.post(path, json=body, headers=headers)

    return send


@pytest.fixture
def asked(served, post):
    """The engine request that fields become, and the response."""

    def send(**fields):
        response = post(**fields)
        assert response.status_code == 200, response.text
        return served.engine.requests[-1], response.json()

    return send


def refused(response, param, status=400):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    return error


def test_the_plain_request(asked):
    request, response = asked()
    assert request.messages == [{"role": "user", "content": "Hi"}]
    assert (request.max_tokens, request.n, request.stop, request.logprobs) == (None, 1, (), None)
    assert (request.tools, request.grammar, request.session) == (None, None, None)
    assert (request.thinking, request.tool_choice) == (Thinking(), ToolChoice())
    assert request.sampling.temperature == 0.7  # the checkpoint's own
    assert response["model"] == "served/name"
    assert (response["object"], response["status"]) == ("response", "completed")
    assert response["completed_at"] >= response["created_at"]


def test_the_caches_report_is_in_terms_of_the_input(post):
    """The scripted engine says that message 2 differs."""
    hello = {"role": "user", "content": "Hi"}
    for fields, place in (
        ({"input": [hello] * 3}, 2),
        ({"input": [hello] * 2, "instructions": "Be brief."}, 1),
        ({"input": "So?", "previous_response_id": post().json()["id"]}, 0),
        ({"input": "So?", "previous_response_id": post().json()["id"], "instructions": "."}, None),
    ):
        response = post(**fields)
        told = {"message": place, "change": "user message"}
        assert response.json()["x_mxserve"]["cache"]["diverged"] == told
        assert response.headers["x-mxserve-cache"].startswith("reused=7, prefilled=4")


def test_what_is_told_back(asked):
    given = {
        "instructions": "Be brief.",
        "max_output_tokens": 50,
        "max_tool_calls": 3,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "temperature": 0.25,
        "top_p": 0.5,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "tool_choice": "none",
        "top_logprobs": 2,
        "user": "u",
        "reasoning": {"effort": "low", "summary": "auto"},
    }
    _, response = asked(**given, store=False, service_tier="auto", truncation="auto")
    assert {name: response[name] for name in given} == given
    assert (response["store"], response["background"]) == (False, False)
    assert (response["service_tier"], response["truncation"]) == ("default", "disabled")
    assert "user" not in asked()[1]


def test_sampling_and_limits(asked):
    fields = {"temperature": 0.25, "top_p": 0.5, "top_k": 7, "min_p": 0.1, "seed": 3}
    request, _ = asked(**fields, max_output_tokens=36.0, logit_bias={"5": 1})
    told = request.sampling
    assert {name: getattr(told, name) for name in fields} == fields
    assert (request.max_tokens, told.logit_bias) == (36, {5: 1})
    assert asked(max_output_tokens=-1)[0].max_tokens is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"reasoning": {"effort": "none"}}, Thinking(enabled=False)),
        ({"reasoning": {"effort": "low"}}, Thinking(budget=1024)),
        ({"reasoning": {"effort": "xhigh"}}, Thinking()),
        ({"reasoning": {"effort": None, "summary": "concise"}}, Thinking()),
        ({"reasoning_effort": "minimal"}, Thinking(budget=256)),
        ({"chat_template_kwargs": {"enable_thinking": False}}, Thinking(enabled=False)),
    ],
)
def test_effort(asked, fields, told):
    assert asked(**fields)[0].thinking == told


@pytest.mark.parametrize(
    ("asked_for", "summary"),
    [({}, []), ({"summary": None}, []), ({"summary": "auto"}, ["S"]), ({"summary": "x"}, None)],
)
def test_summaries(post, asked_for, summary):
    response = post(reasoning=asked_for)
    if summary is None:
        refused(response, "reasoning.summary")
        return
    [thought, _] = response.json()["output"]
    words = "France, so Paris."
    assert thought["content"] == [{"type": "reasoning_text", "text": words}]
    assert [part["text"] for part in thought["summary"]] == [words] * len(summary)


def test_log_probabilities_are_asked_for_by_either_field(asked):
    include = ["message.output_text.logprobs", "something.else"]
    assert asked(include=include)[0].logprobs == 0
    assert asked(include=include, top_logprobs=3)[0].logprobs == 3
    assert asked(top_logprobs=3)[0].logprobs == 3
    assert asked(top_logprobs=0, include=[])[0].logprobs is None


def test_text_format(asked):
    form = {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}
    request, response = asked(text={"format": form})
    assert request.grammar == GrammarSpec("json_schema", SCHEMA, "text.format.schema")
    assert response["text"] == {"format": form, "verbosity": "medium"}
    del form["name"]
    assert asked(text={"format": form})[1]["text"]["format"]["name"]
    grammar = GrammarSpec("json_object", None, "text.format")
    assert asked(text={"format": {"type": "json_object"}})[0].grammar == grammar
    for text in ({"format": {"type": "text"}}, {"format": None}, {}, None):
        request, response = asked(text=text)
        assert request.grammar is None
        assert response["text"]["format"] == {"type": "text"}
    assert asked(structured_outputs={"choice": ["a"]})[0].grammar.kind == "choice"


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ({"format": {"type": "xml"}}, "text.format.type"),
        ({"format": "json"}, "text.format.type"),
        ({"format": {"type": "json_schema", "name": "x"}}, "text.format.schema"),
        ({"format": {"type": "json_schema", "schema": 1}}, "text.format.schema"),
        ({"verbosity": "loud"}, "text.verbosity"),
        ("json", "text"),
    ],
)
def test_a_format_that_is_none(post, text, param):
    refused(post(text=text), param)


def test_one_grammar_only(post):
    response = post(text={"format": {"type": "json_object"}}, guided_regex="a+")
    assert "text.format and guided_regex" in refused(response, "guided_regex")["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"include": "reasoning"}, "include"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"truncation": "some"}, "truncation"),
        ({"stream": "yes"}, "stream"),
        ({"tools": [{"type": "function", "name": "?"}]}, "tools[0].name"),
        ({"tools": [{**WEATHER, "parameters": 1}]}, "tools[0].parameters"),
        ({"tools": [{**GEO, "tools": 1}]}, "tools[0].tools"),
        ({"tools": {}}, "tools"),
        ({"instructions": ["Be brief."]}, "instructions"),
    ],
)
def test_mistakes_name_their_field(post, fields, param):
    assert refused(post(**fields), param)["message"].startswith(param.split(".")[0])


@pytest.mark.parametrize(
    "fields",
    [{"background": True}, {"conversation": "conv_1"}, {"prompt": {"id": "pmpt_1"}}],
)
def test_what_is_not_done_here_is_refused(post, fields):
    [param] = fields
    assert refused(post(**fields), param)["code"] == "unsupported_parameter"
    assert post(**dict.fromkeys(fields)).is_success


@pytest.mark.parametrize("given", [{"input": None}, {"input": []}])
def test_an_input_is_needed(post, given):
    assert refused(post(**given), "input")["code"] == "missing_required_parameter"
    assert post(**given, instructions="Say hi.").is_success


def test_the_engines_refusals_name_the_dialects_fields(served, post):
    for param, own in (("tools[0].function.parameters", "tools[0].parameters"), ("seed", "seed")):
        served.engine.refusal = InvalidRequest(f"{param} is wrong.", param)
        assert refused(post(), own)["message"] == f"{own} is wrong."
    served.engine.refusal = ContextOverflow(4096, 5000, None)
    assert refused(post(), "input")["code"] == "context_length_exceeded"
    served.engine.refusal = QueueFull(3)
    assert (post().status_code, post().headers["retry-after"]) == (429, "3")


def test_names_of_models(post, launch):
    assert post(model="anything").json()["model"] == "served/name"
    strict = launch(strict_model=True).http
    response = strict.post("/v1/responses", json={"model": "other", "input": "Hi"})
    assert refused(response, "model", 404)["code"] == "model_not_found"


def test_hints_of_a_session(served, post):
    post(prompt_cache_key="k", headers={"session-id": "s"})
    assert served.engine.requests[-1].session == "k"
    post(headers={"session-id": "s"})
    assert served.engine.requests[-1].session == "s"


@pytest.mark.parametrize("path", ["/v1/responses/", "/responses", "/responses/"])
def test_other_spellings_of_the_path(post, path):
    assert post(path=path).is_success


def test_input_tokens_are_those_of_the_prompt(post, served):
    """The scripted engine's tokens are the bytes of its prompt."""
    response = post(path="/v1/responses/input_tokens", instructions="Be brief.", stream=True)
    count = len("<system>Be brief.<user>Hi<answer>")
    assert response.json() == {"object": "response.input_tokens", "input_tokens": count}
    assert served.engine.requests == []


NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=8)
NAMES = st.sampled_from(["type", "effort", "format", "summary", "name", "tools", "mode", "schema"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
FIELDS = st.dictionaries(st.sampled_from(sorted(ResponsesRequest.model_fields)), VALUES, max_size=4)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(FIELDS)
def test_any_fields(served, fields):
    fields["stream"] = None
    response = served.http.post("/v1/responses", json={"input": "Hi", **fields})
    if response.status_code == 200:
        served.engine.requests[-1].check()
        return
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].split(".")[0].split("[")[0] in [*fields, "input"]
