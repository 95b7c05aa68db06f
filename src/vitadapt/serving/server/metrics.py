"""Numbers for Prometheus: a registry of the server's own, with its process."""

from __future__ import annotations

from collections.abc import Callable, Container

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counts of one server."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "vitadapt_requests_total", "Requests by route and status.", ["route", "code"], registry=registry
        )
        self.seconds = Histogram(
            "vitadapt_request_seconds",
            "From the first byte to the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.images = Counter("vitadapt_images_total", "Images answered.", ["model"], registry=registry)
        self.batches = Histogram(
            "vitadapt_batch_images", "Images that the network computed together.", buckets=_SIZES, registry=registry
        )
        self.refused = Counter("vitadapt_refused_total", "Requests refused, by reason.", ["reason"], registry=registry)
        self._models: set[str] = set()

    def count_images(self, model: str, images: int) -> None:
        """Count images that a model has answered."""
        self._models.add(model)
        self.images.labels(model).inc(images)

    def forget_models(self, except_for: Container[str]) -> None:
        """Drop the counts of models that are no longer served: names come and go, and memory must not grow."""
        for name in [name for name in self._models if name not in except_for]:
            self._models.remove(name)
            self.images.remove(name)

    def add_gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        """A number that is read whenever the metrics are asked for."""
        Gauge(f"vitadapt_{name}", description, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
