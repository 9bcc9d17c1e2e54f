"""Whatever JSON comes: an answer or a 400 in our shape, and the server goes on."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.api.chat_schema import ChatRequest

NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=8)
NAMES = st.sampled_from(["type", "effort", "budget_tokens", "include_usage", "name", "function"])
VALUES = (
    SCALARS
    | st.lists(SCALARS, max_size=2)
    | st.dictionaries(NAMES | st.text(), SCALARS, max_size=2)
)
FIELDS = st.dictionaries(
    st.sampled_from(sorted(set(ChatRequest.model_fields) - {"messages"})), VALUES, max_size=4
)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(FIELDS)
def test_any_fields(served, fields):
    response = served.chat(**fields)
    if response.status_code == 200:
        assert response.text
        served.engine.requests[-1].check()
        return
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"].split(".")[0].split("[")[0] in fields


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.binary(max_size=40) | SCALARS.map(str).map(str.encode))
def test_any_bytes(served, raw):
    response = served.http.post("/v1/chat/completions", content=raw)
    assert response.status_code == 400
    assert response.json()["error"]["message"]
