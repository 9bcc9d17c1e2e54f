"""/metrics: what is counted, under which names, and that labels stay few."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.engine.durations import BOUNDS, Durations
from server.engine.errors import QueueFull, StepFailed
from server.engine.events import CacheReport, ContentDelta, Failed, Started

VLLM = {"model_name": "served/name", "engine": "0"}


@pytest.fixture
def served(launch):
    """A server whose figures begin at nothing."""
    return launch()


def samples(served) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = served.http.get("/metrics").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(served, name: str, **labels: str) -> float:
    """A figure; those of vllm: have the labels that all of these have."""
    if name.startswith("vllm:"):
        labels = {**VLLM, **labels}
    return samples(served).get((name, frozenset(labels.items())), 0.0)


def test_prometheus_reads_it_and_openmetrics_too(served):
    plain = served.http.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    asked = {"Accept": "application/openmetrics-text; version=1.0.0"}
    other = served.http.get("/metrics", headers=asked)
    assert other.headers["content-type"].startswith("application/openmetrics-text")
    assert other.text.endswith("# EOF\n")


def test_figures_begin_at_0_and_not_with_the_first_event(served):
    begun = samples(served)
    for name, labels in {
        "vllm:generation_tokens_total": {},
        "vllm:time_to_first_token_seconds_count": {},
        "vllm:request_success_total": {"finished_reason": "error"},
        "mxserve_thinking_cuts_total": {},
        "mxserve_requests_refused_total": {"code": "queue_full"},
        "mxserve_requests_failed_total": {"code": "out_of_memory"},
    }.items():
        assert begun[name, frozenset({**VLLM, **labels}.items())] == 0, name


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_counted(served, stream):
    served.chat(stream=stream)
    for name, expected in {
        "vllm:prompt_tokens_total": 11,
        "vllm:prefix_cache_queries_total": 11,
        "vllm:prefix_cache_hits_total": 7,
        "vllm:generation_tokens_total": 5,
        "mxserve_reasoning_tokens_total": 2,
        "mxserve_thinking_cuts_total": 0,
    }.items():
        labels = VLLM if name.startswith("mxserve") else {}
        assert value(served, name, **labels) == expected, name
    assert value(served, "vllm:request_success_total", finished_reason="stop") == 1
    for name in (
        "vllm:time_to_first_token_seconds",
        "vllm:e2e_request_latency_seconds",
        "vllm:request_queue_time_seconds",
        "vllm:request_prefill_time_seconds",
        "vllm:request_decode_time_seconds",
        "vllm:request_time_per_output_token_seconds",
        "vllm:request_prompt_tokens",
        "vllm:request_generation_tokens",
    ):
        assert value(served, f"{name}_count") == 1, name
    assert value(served, "vllm:inter_token_latency_seconds_count") == 3, "four pieces came"
    assert value(served, "vllm:request_decode_time_seconds_sum") == pytest.approx(0.2)


def test_a_cut_thought_is_counted(served, scripts):
    served.engine.script = [Started(4, 0), scripts.finished(thinking_cut=True)]
    served.chat()
    assert value(served, "mxserve_thinking_cuts_total", **VLLM) == 1


@pytest.mark.parametrize(
    ("cached", "change", "outcome"),
    [
        (7, None, "extended"),
        (0, None, "new"),
        (7, "user message", "user message"),
        (0, "evicted", "evicted"),
    ],
)
def test_what_the_cache_did_is_counted_by_reason(served, scripts, cached, change, outcome):
    report = CacheReport(cached, 11 - cached, cached, None, change)
    served.engine.script = [Started(11, cached, report), scripts.finished()]
    served.chat()
    assert value(served, "mxserve_prompt_cache_requests_total", **VLLM, outcome=outcome) == 1


def test_refusals_and_failures_are_counted(served):
    served.engine.refusal = QueueFull(3)
    assert served.chat().status_code == 429
    assert value(served, "mxserve_requests_refused_total", **VLLM, code="queue_full") == 1
    served.engine.refusal = None
    served.engine.script = [Started(1, 0), Failed(StepFailed("x"))]
    assert served.chat().status_code == 500
    assert value(served, "mxserve_requests_failed_total", **VLLM, code="step_failed") == 1
    assert value(served, "vllm:request_success_total", finished_reason="error") == 1


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_is_counted_as_an_abort(served, stream):
    served.engine.script = [Started(1, 0), *[0.02, ContentDelta(0, "x", tokens=1)] * 3000]
    body = {"messages": [{"role": "user", "content": "x"}], "stream": stream}
    with (
        contextlib.suppress(httpx.ReadTimeout),
        served.http.stream("POST", "/v1/chat/completions", json=body, timeout=0.3) as reply,
    ):
        next(part for part in reply.iter_text() if '"x"' in part)
    end = time.monotonic() + 5
    while not value(served, "vllm:request_success_total", finished_reason="abort"):
        assert time.monotonic() < end
    assert value(served, "vllm:generation_tokens_total") == 1, "one token, told again and again"
    assert value(served, "vllm:e2e_request_latency_seconds_count") == 0


def test_each_choice_is_counted(served, scripts):
    served.engine.script = lambda request: [
        Started(5, 0),
        *[e for i in range(2) for e in (ContentDelta(i, "x", tokens=1), scripts.finished(i))],
    ]
    served.chat(n=2)
    assert value(served, "vllm:request_success_total", finished_reason="stop") == 2
    assert value(served, "vllm:generation_tokens_total") == 10
    assert value(served, "vllm:e2e_request_latency_seconds_count") == 1
    assert value(served, "vllm:prompt_tokens_total") == 5


def test_what_the_engine_says_of_itself(served):
    found: dict[str, Any] = {
        "vllm:num_requests_running": 3,
        "vllm:num_requests_waiting": 2,
        "mxserve_slots": 16,
        "mxserve_slots_used": 3,
        "mxserve_queue_limit": 64,
        "mxserve_prompt_cache_bytes": 1000,
        "mxserve_prompt_cache_entries": 5,
        "mxserve_disk_cache_bytes": 4000,
        "mxserve_last_step_age_seconds": 0.25,
        "mxserve_up": 1,
    }
    for name, expected in found.items():
        assert value(served, name) == expected, name
    assert value(served, "mxserve_memory_bytes", kind="active") == 10
    served.engine.status = "dead"
    assert value(served, "mxserve_up") == 0


def test_work_of_the_engine_is_a_histogram(served):
    durations = Durations()
    for seconds in (0.001, BOUNDS[0], 0.004, 100.0):
        durations.add(seconds)
    served.engine.work = {"decode": durations}
    assert value(served, "mxserve_work_seconds_bucket", kind="decode", le=str(BOUNDS[0])) == 2
    assert value(served, "mxserve_work_seconds_bucket", kind="decode", le=str(BOUNDS[1])) == 3
    assert value(served, "mxserve_work_seconds_count", kind="decode") == 4
    assert value(served, "mxserve_work_seconds_sum", kind="decode") == pytest.approx(100.007)


def test_paths_and_methods_that_are_made_up_make_no_new_series(served):
    for i in range(5):
        served.http.get(f"/made/up/{i}")
        served.http.get(f"/v1/models/x{i}")
        served.http.request(f"MADEUP{i}", "/v1/models")
    found = {
        tuple(sorted(dict(labels).items())): count
        for (name, labels), count in samples(served).items()
        if name == "mxserve_http_requests_total"
    }
    assert found == {
        (("method", "GET"), ("route", "other"), ("status", "404")): 5,
        (("method", "GET"), ("route", "/v1/models/{name}"), ("status", "404")): 5,
        (("method", "other"), ("route", "/v1/models"), ("status", "405")): 5,
    }
