"""What Prometheus scrapes. The registry is the composition root's; backends are asked when a scrape comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backends.types import ModelState
from gateway.outcome import Outcome

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 30, 60, 120)
GAP_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 10)
MOST_RESULTS = 64  # of a route, told apart
DURATION_BUCKETS_S = (0.005, 0.02, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Gauge(NamedTuple):
    """A figure of each model's `ModelState`, read at scrape time."""

    name: str
    help: str
    read: Callable[[ModelState], float]
    counter: bool = False


MODEL_FIGURES = (
    Gauge("outstation_model_ready", "1 while the model is loaded and answers.", lambda s: s.status == "ready"),
    Gauge("outstation_requests_waiting", "Requests in the model's queue.", lambda s: s.waiting),
    Gauge("outstation_sequences_running", "Sequences being computed.", lambda s: s.running),
    Gauge("outstation_sequences_max", "Sequences that can be computed together.", lambda s: s.max_sequences),
    Gauge("outstation_kv_cells", "KV cache cells in all; one holds a token.", lambda s: s.kv_cells),
    Gauge("outstation_kv_cells_used", "Cells of live sequences and kept prefixes.", lambda s: s.kv_cells_used),
    Gauge("outstation_kv_cells_kept", "Cells of prefixes kept for later requests.", lambda s: s.kv_cells_kept),
    Gauge(
        "outstation_model_memory_bytes",
        "Resident memory of its process; of a small model, what loading it added.",
        lambda s: s.memory_bytes,
    ),
    Gauge("outstation_model_threads", "Compute threads in use.", lambda s: s.threads),
    Gauge("outstation_prefill_tokens_per_second", "One prompt's prefill, measured.", lambda s: s.prefill_rate),
    Gauge("outstation_decode_tokens_per_second", "All sequences' decode, measured.", lambda s: s.decode_rate),
    Gauge("outstation_engine_prompt_tokens", "Prompt tokens admitted.", lambda s: s.prompt_tokens_total, True),
    Gauge(
        "outstation_engine_prefix_hit_tokens", "Of them, found in the KV cache.", lambda s: s.cached_tokens_total, True
    ),
    Gauge("outstation_engine_completion_tokens", "Tokens decoded.", lambda s: s.completion_tokens_total, True),
    Gauge("outstation_preemptions", "Sequences put back for want of cells.", lambda s: s.preemptions_total, True),
    Gauge("outstation_model_restarts", "Restarts after a crash.", lambda s: s.restarts_total, True),
    Gauge("outstation_engine_step_seconds", "Time spent in steps of the engine.", lambda s: s.step_seconds, True),
    Gauge("outstation_engine_python_seconds", "Of it, outside native code.", lambda s: s.python_seconds, True),
)


class _ModelCollector(Collector):
    def __init__(self, states: Callable[[], Iterable[ModelState]]) -> None:
        self._states = states

    def collect(self) -> Iterable[Metric]:
        states = list(self._states())
        for figure in MODEL_FIGURES:
            family: GaugeMetricFamily | CounterMetricFamily
            if figure.counter:
                family = CounterMetricFamily(figure.name, figure.help, labels=["model"])
            else:
                family = GaugeMetricFamily(figure.name, figure.help, labels=["model"])
            for state in states:
                family.add_metric([state.name], float(figure.read(state)))
            yield family


class RouteFigure(Protocol):
    """A gauge with a value for each of some routes."""

    @property
    def name(self) -> str: ...
    @property
    def help(self) -> str: ...
    @property
    def values(self) -> Sequence[tuple[str, float]]: ...


class _RouteCollector(Collector):
    def __init__(self, figures: Callable[[], Iterable[RouteFigure]]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        for figure in self._figures():
            family = GaugeMetricFamily(figure.name, figure.help, labels=["route"])
            for route, value in figure.values:
                family.add_metric([route], value)
            yield family


class _Booked(NamedTuple):
    """Where one model's figures go."""

    prompt: Callable[[float], object]
    cached: Callable[[float], object]
    completion: Callable[[float], object]
    gap: Callable[[float], object]
    ttft: Callable[[float], object]
    duration: Callable[[float], object]


class Metrics:
    """The gateway's own counters and histograms, and its models' figures.

    Args:
        states: what each model does now; asked on each scrape.
        figures: further gauges by route, likewise.
    """

    def __init__(
        self,
        states: Callable[[], Iterable[ModelState]],
        figures: Callable[[], Iterable[RouteFigure]] = lambda: (),
    ) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "outstation_requests",
            "Requests by how they ended: success, error or cancelled.",
            ["endpoint", "model", "outcome"],
            registry=self.registry,
        )
        self._tokens = Counter(
            "outstation_tokens",
            "Tokens of answered requests; cached ones are among the prompt's.",
            ["model", "kind"],
            registry=self.registry,
        )
        self._ttft = self._histogram("outstation_ttft_seconds", "From arrival to the first token.", TTFT_BUCKETS_S)
        self._gaps = self._histogram(
            "outstation_inter_token_seconds", "Between two tokens of a choice, as they leave.", GAP_BUCKETS_S
        )
        self._durations = self._histogram(
            "outstation_request_seconds", "From arrival to the end of an inference request.", DURATION_BUCKETS_S
        )
        self._attempts = Counter(
            "outstation_attempts",
            "Routes that were asked, by how that ended: ok, cancelled, or the code of the error.",
            ["route", "result"],
            registry=self.registry,
        )
        self._cost = Counter(
            "outstation_cost_usd", "Money spent at providers, in US dollars.", ["route"], registry=self.registry
        )
        self._by_attempt: dict[str, dict[str, Callable[[], object]]] = {}
        self._by_model: dict[str, _Booked] = {}
        self._by_ending: dict[tuple[str, str, str], Callable[[], object]] = {}
        self.registry.register(_ModelCollector(states))
        self.registry.register(_RouteCollector(figures))

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, help_text, ["model"], buckets=buckets, registry=self.registry)

    def gap_observer(self, model: str) -> Callable[[float], object]:
        """A function that takes one inter-token gap in seconds; kept for each model, since it runs for each token."""
        return self._booked(model).gap

    def _booked(self, model: str) -> _Booked:
        """The model's own children, found once: `labels()` costs more than the counting itself."""
        booked = self._by_model.get(model)
        if booked is None:
            tokens = [self._tokens.labels(model, kind).inc for kind in ("prompt", "cached", "completion")]
            histograms = [family.labels(model).observe for family in (self._gaps, self._ttft, self._durations)]
            booked = self._by_model[model] = _Booked(*tokens, *histograms)
        return booked

    def count(self, outcome: Outcome, endpoint: str, now: float) -> None:
        """Books a request that has ended, once. `now` is of the monotonic clock."""
        model = outcome.route.model if outcome.route else ""
        ending = (endpoint, model, outcome.ending or "error")
        count = self._by_ending.get(ending)
        if count is None:
            count = self._by_ending[ending] = self._requests.labels(*ending).inc
        count()
        for route, result, _ in outcome.tried:
            self._count_attempt(route, result)
        for route, usd in outcome.costs.items():
            self._cost.labels(route).inc(usd)
        if not model:
            return
        booked = self._booked(model)
        booked.duration(now - outcome.started)
        if outcome.first_at is not None:
            booked.ttft(outcome.first_at - outcome.started)
        if usage := outcome.usage:
            booked.prompt(usage.prompt_tokens)
            booked.cached(usage.cached_tokens)
            booked.completion(usage.completion_tokens)

    def _count_attempt(self, route: str, result: str) -> None:
        counts = self._by_attempt.setdefault(route, {})
        if result not in counts and len(counts) >= MOST_RESULTS:  # providers choose words of their own
            result = "other"
        if result not in counts:
            counts[result] = self._attempts.labels(route, result).inc
        counts[result]()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
