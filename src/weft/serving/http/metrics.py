"""What Prometheus reads: requests as the door counts them, the engine's load as it says it of itself."""

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from weft.serving.contract import Answering

_GAUGES = {
    "rows": "Inputs under way, encoded, waiting or computed.",
    "writing": "Texts that are being written.",
    "residents": "Experts in memory.",
    "bytes": "Of the tensors of experts in memory.",
    "busy": "Share of the last half minute in which the model computed.",
    "draining": "1 once the engine takes nothing new.",
    "replicas": "Processes that answer.",
}
_COUNTERS = {
    "batches": "Forward passes.",
    "tokens": "Tokens read and written, padding not counted.",
    "retries": "Requests asked once more, since the process that was to answer had died.",
}
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The numbers of one server.

    Args:
        engine: Whose load stands beside them.
    """

    def __init__(self, engine: Answering) -> None:
        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter(
            "weft_requests", "Requests by route and status.", ["route", "status"], **own
        )
        self._seconds = Histogram(
            "weft_request_seconds",
            "Time to the end of an answer.",
            ["route"],
            buckets=_SECONDS,
            **own,
        )
        self._under_way = Gauge("weft_requests_under_way", "Requests not yet answered.", **own)
        self._tokens = Counter(
            "weft_answered_tokens", "Tokens read and written for answers.", **own
        )
        self._inputs = Counter("weft_answered_inputs", "Inputs answered.", **own)
        self._registry.register(_LoadOf(engine))

    def begun(self) -> None:
        """A request came."""
        self._under_way.inc()

    def ended(self, route: str, status: int, seconds: float) -> None:
        """A request is done.

        Args:
            route: The route's path, as the document has it.
            status: HTTP's; 499 where the client left.
            seconds: From its first byte to the answer's last.
        """
        self._under_way.dec()
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def answered(self, inputs: int, tokens: int) -> None:
        """Inputs were answered."""
        self._inputs.inc(inputs)
        self._tokens.inc(tokens)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _LoadOf(Collector):
    """Every number of the engine's load as a gauge of its name."""

    def __init__(self, engine: Answering) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        """The numbers as they are now; what waits is summed over experts, which may be thousands."""
        load = self._engine.load()
        waiting = sum(load.waiting.values())
        yield GaugeMetricFamily("weft_engine_waiting_tokens", "Tokens that wait.", waiting)
        for name, said in _GAUGES.items():
            yield GaugeMetricFamily(f"weft_engine_{name}", said, float(getattr(load, name)))
        for name, said in _COUNTERS.items():
            yield CounterMetricFamily(f"weft_engine_{name}", said, float(getattr(load, name)))
