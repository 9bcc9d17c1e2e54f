"""What `GET /metrics` tells: its figures, their names, and where a figure is read when asked for.

Names that begin with vllm: mean what they mean there, so that dashboards made for vLLM work; the
others begin with mxserve_. Knows Prometheus and the engine's health; who counts what is not known
here (`metered.py`, the outermost layer).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from server import __version__
from server.engine import Health
from server.engine.durations import BOUNDS, Durations
from server.request_record import RequestRecord

LABELS = ("model_name", "engine")
ENGINE = "0"  # vLLM numbers its engines; there is one here
disable_created_metrics()  # a second series for each, which nothing here asks for
REASONS = ("stop", "length", "tool_calls", "abort", "error")
METHODS = frozenset(("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"))

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75)
_GAPS = (*_SHORT, 1.0, 2.5, 5.0, 10.0, 30.0, 80.0)
_WAITS = (*_SHORT, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)
_TOKENS = tuple(float(scale * 10**power) for power in range(6) for scale in (1, 2, 5))


class Metrics:
    """A server's figures in a registry of its own. `health` and `durations` (by kind of work) are
    asked when figures are; `limits`: figures that do not change, by name; `codes`: of the errors
    that requests may end with."""

    def __init__(
        self,
        health: Callable[[], Health],
        durations: Callable[[], Mapping[str, Durations]],
        limits: Mapping[str, float],
        codes: Collection[str] = (),
    ) -> None:
        registry = self._registry = CollectorRegistry()
        self._health = health
        self._codes = codes
        self._begun: set[str] = set()
        self._of_a_model: list[Counter | Histogram] = []

        def counter(name: str, text: str, *labels: str) -> Counter:
            made = Counter(name, text, (*LABELS, *labels), registry=registry)
            if not labels:
                self._of_a_model.append(made)
            return made

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            made = Histogram(name, text, LABELS, buckets=buckets, registry=registry)
            self._of_a_model.append(made)
            return made

        self.prompt_tokens = counter("vllm:prompt_tokens", "Tokens of prompts, cached ones too.")
        self.generation_tokens = counter("vllm:generation_tokens", "Tokens generated.")
        self.cache_queries = counter(
            "vllm:prefix_cache_queries", "Prompt tokens looked for in the prompt cache."
        )
        self.cache_hits = counter(
            "vllm:prefix_cache_hits", "Prompt tokens that the prompt cache had."
        )
        self.finished = counter(
            "vllm:request_success",
            f"Answers that ended, by how ({', '.join(REASONS)}).",
            "finished_reason",
        )
        self.first_token = histogram(
            "vllm:time_to_first_token_seconds",
            "From a request's arrival to its first text.",
            _WAITS,
        )
        self.gap = histogram(
            "vllm:inter_token_latency_seconds", "Between two pieces of text of an answer.", _GAPS
        )
        self.per_token = histogram(
            "vllm:request_time_per_output_token_seconds", "An answer's mean time per token.", _GAPS
        )
        self.latency = histogram(
            "vllm:e2e_request_latency_seconds", "From a request's arrival to its end.", _WAITS
        )
        self.queue_time = histogram(
            "vllm:request_queue_time_seconds", "What a request waited for its turn.", _WAITS
        )
        self.prefill_time = histogram(
            "vllm:request_prefill_time_seconds", "What reading a prompt took.", _WAITS
        )
        self.decode_time = histogram(
            "vllm:request_decode_time_seconds", "From an answer's first token to its last.", _WAITS
        )
        self.request_prompt_tokens = histogram(
            "vllm:request_prompt_tokens", "Tokens of a prompt.", _TOKENS
        )
        self.request_generation_tokens = histogram(
            "vllm:request_generation_tokens", "Tokens of an answer.", _TOKENS
        )
        self.reasoning_tokens = counter("mxserve_reasoning_tokens", "Tokens of thoughts.")
        self.thinking_cuts = counter(
            "mxserve_thinking_cuts", "Thoughts that were closed because their budget was spent."
        )
        self.cache_outcomes = counter(
            "mxserve_prompt_cache_requests",
            "Prompts, by what the prompt cache did: extended, new, or what differed.",
            "outcome",
        )
        self.refused = counter(
            "mxserve_requests_refused", "Requests the engine did not take, by error.", "code"
        )
        self.failed = counter(
            "mxserve_requests_failed", "Requests that failed once they were taken.", "code"
        )
        self._http = Counter(
            "mxserve_http_requests",
            "HTTP requests, by route, method and status.",
            ("route", "method", "status"),
            registry=registry,
        )
        self._http_seconds = Histogram(
            "mxserve_http_request_seconds",
            "From a request's head to the end of its answer.",
            ("route",),
            buckets=_WAITS,
            registry=registry,
        )
        ProcessCollector(registry=registry)
        registry.register(_AsOfNow(health, durations, limits))

    def ended(self, record: RequestRecord) -> None:
        """Counts an HTTP request. Labels are from closed lists, whatever was asked for."""
        route = record.route or "other"
        method = record.method if record.method in METHODS else "other"
        self._http.labels(route, method, str(record.status)).inc()
        self._http_seconds.labels(route).observe(record.total_s)

    def page(self, accept: str) -> tuple[bytes, str]:
        """All figures in the format that `accept`, an Accept header, asks for; its content type."""
        model = self._health().model
        if model is not None and model.id not in self._begun:
            self._begin(model.id)
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _begin(self, model: str) -> None:
        """All series of a model from 0 on: what appears with its first event is no increase."""
        self._begun.add(model)
        for figure in self._of_a_model:
            figure.labels(model, ENGINE)
        for reason in REASONS:
            self.finished.labels(model, ENGINE, reason)
        for code in self._codes:
            self.refused.labels(model, ENGINE, code)
            self.failed.labels(model, ENGINE, code)


class _AsOfNow:
    """Figures that others keep, read when they are asked for."""

    def __init__(
        self,
        health: Callable[[], Health],
        durations: Callable[[], Mapping[str, Durations]],
        limits: Mapping[str, float],
    ) -> None:
        self._health = health
        self._durations = durations
        self._limits = limits

    def describe(self) -> list[Metric]:
        return []  # so that registering asks for nothing yet

    def collect(self) -> Iterator[Metric]:
        state = self._health()
        yield from _loads(state, state.model.id if state.model else "")
        memory = GaugeMetricFamily(
            "mxserve_memory_bytes", "Memory of the device.", labels=("kind",)
        )
        for name, value in state.memory.items():
            memory.add_metric((name.removesuffix("_bytes"),), value)
        yield memory
        for name, value, text in (
            ("up", state.status == "ready", "Whether requests are taken."),
            ("model_loaded", state.model_state == "loaded", "Whether the weights are in memory."),
            ("uptime_seconds", state.uptime_s, "Since the server was started."),
            ("slots", state.slots, "Answers that can be written at once."),
            ("slots_used", state.active, "Answers being written."),
            ("prompt_cache_bytes", state.cache_bytes, "The prompt cache in memory."),
            ("prompt_cache_entries", state.cache_entries, "Its entries."),
            ("disk_cache_bytes", state.disk_cache_bytes, "The prompt cache on the disk."),
            ("last_step_age_seconds", state.last_step_age_s or 0.0, "0 when idle."),
            ("threads", threading.active_count(), "Threads of Python."),
        ):
            yield GaugeMetricFamily(f"mxserve_{name}", text, float(value))
        for name, value in self._limits.items():
            yield GaugeMetricFamily(f"mxserve_{name}", "As it was set.", value)
        build = GaugeMetricFamily("mxserve_build_info", "Always 1.", labels=("version",))
        build.add_metric((__version__,), 1)
        yield build
        yield from _speculation(state)
        yield _work(self._durations())


def _loads(state: Health, model: str) -> Iterator[Metric]:
    for name, value, text in (
        ("num_requests_running", state.active, "Answers being written."),
        ("num_requests_waiting", state.queued, "Requests that wait."),
    ):
        family = GaugeMetricFamily(f"vllm:{name}", text, labels=LABELS)
        family.add_metric((model, ENGINE), value)
        yield family


def _speculation(state: Health) -> Iterator[Metric]:
    """Tokens that were drafted and those that were right, where the engine drafts."""
    counts = state.mtp
    model = state.model.id if state.model else ""
    for name, key, text in (
        ("num_drafts", "steps", "Steps with drafted tokens."),
        ("num_draft_tokens", "drafted", "Tokens drafted."),
        ("num_accepted_tokens", "accepted", "Drafted tokens that were right."),
    ):
        if key in counts:
            family = CounterMetricFamily(f"vllm:spec_decode_{name}", text, labels=LABELS)
            family.add_metric((model, ENGINE), counts[key])
            yield family


def _work(durations: Mapping[str, Durations]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(
        "mxserve_work_seconds",
        "Pieces of work of the engine: a decode step, a chunk of a prompt, an admission.",
        labels=("kind",),
    )
    for kind, found in durations.items():
        buckets, total = [], 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), found.counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric((kind,), buckets, found.total_s)
    return family
