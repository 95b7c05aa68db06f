"""Numbers for Prometheus: a registry of the server's own, with its process."""

from __future__ import annotations

from collections.abc import Callable, Container

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counts of one server."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter(
            "vitadapt_requests_total", "Requests by route and status.", ["route", "code"], registry=own
        )
        self.seconds = Histogram(
            "vitadapt_request_seconds", "From the first byte to the answer.", ["route"], buckets=_SECONDS, registry=own
        )
        self.images = Counter("vitadapt_images_total", "Images answered.", ["model"], registry=own)
        self._answering: set[str] = set()
        self.batches = Histogram(
            "vitadapt_batch_images", "Images that the network looked at together.", buckets=_SIZES, registry=own
        )
        self.refused = Counter("vitadapt_refused_total", "Requests refused, by reason.", ["reason"], registry=own)

    def answered(self, model: str, images: int) -> None:
        """Count images that a model has answered."""
        self._answering.add(model)
        self.images.labels(model).inc(images)

    def keep(self, models: Container[str]) -> None:
        """Drop the counts of all other models: names come and go, and memory must not grow with them."""
        for name in [name for name in self._answering if name not in models]:
            self._answering.remove(name)
            self.images.remove(name)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(f"vitadapt_{name}", about, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
