"""The engine's numbers in Prometheus' form."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from kvlab.serve.worker import Worker

COUNTED = {
    "steps": "steps of the engine",
    "failed_steps": "steps that failed",
    "prompt_tokens": "prompt tokens of requests that have ended",
    "cached_tokens": "of these, tokens whose keys and values were found in a block",
    "new_tokens": "tokens that were written",
    "preempted": "times a request's blocks were taken away",
}
HOW = ("stop", "length", "cancelled", "refused", "error")


class _Collector:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def collect(self) -> Iterator[Metric]:
        state = self.worker.state
        blocks = GaugeMetricFamily("kvlab_blocks", "blocks of the cache", labels=["kind"])
        for kind, n in state.blocks._asdict().items():
            blocks.add_metric([kind], n)
        yield blocks
        yield GaugeMetricFamily("kvlab_waiting", "requests without blocks", state.waiting)
        yield GaugeMetricFamily("kvlab_running", "requests with blocks", state.running)
        for name, text in COUNTED.items():
            yield CounterMetricFamily(f"kvlab_{name}", text, getattr(state, name))
        ended = CounterMetricFamily("kvlab_answers", "answers that ended", labels=["how"])
        for how in HOW:
            ended.add_metric([how], state.ended[how])
        yield ended


def text(worker: Worker) -> bytes:
    """All numbers, as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(_Collector(worker))
    return generate_latest(registry)
