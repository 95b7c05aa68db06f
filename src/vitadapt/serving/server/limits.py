"""How much the server takes from whoever asks, in one place; docs/server.md lists every number."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields

from ...utils.errors import ConfigError
from ...utils.limits import IMAGE_PIXELS, MIB

EXPLANATION = 16  # places in the queue that one explanation takes: it costs about as much as so many answers

_OPTIONS = {
    "wait": "wait-ms",
    "body": "max-bytes",
    "pixels": "max-pixels",
    "images": "max-images",
    "memory": "max-memory",
    "requests": "max-requests",
    "connections": "max-requests",
    "header": "read-timeout",
    "read": "read-timeout",
    "answer": "timeout",
}


@dataclass(frozen=True)
class Limits:
    """Bounds of one server. Nothing a client sends makes it take more than these.

    batch and wait: images that the network looks at together, and seconds that the first of them waits for others.
    queue: images that are accepted and not answered yet; beyond it the answer is 503. body, pixels, images: bytes of a
    request, pixels of a picture, pictures of a request. memory: bytes of all requests that are being read or answered.
    requests and connections: at a time. header, read and answer: seconds until the header of a request, its body, and
    the answer must be there. decoders: threads that decode pictures. models: that are taken over HTTP.
    """

    batch: int = 32
    wait: float = 0.005
    queue: int = 512
    body: int = 20 * MIB
    pixels: int = 50_000_000
    images: int = 32
    memory: int = 512 * MIB
    requests: int = 512
    connections: int = 1024
    header: float = 10.0
    read: float = 30.0
    answer: float = 60.0
    decoders: int = min(4, os.cpu_count() or 1)
    models: int = 10_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and (value >= 0 if field.name == "wait" else value > 0)):
                option = _OPTIONS.get(field.name, field.name)
                raise ConfigError(f"--{option} must be a number {'from 0 on' if field.name == 'wait' else 'above 0'}")
        if self.pixels > IMAGE_PIXELS:
            raise ConfigError(f"--max-pixels can be {IMAGE_PIXELS} at most, got {self.pixels}")
        if self.images > self.queue or self.queue < EXPLANATION:
            raise ConfigError(f"--queue must hold the images of one request, {max(self.images, EXPLANATION)} at least")
        if self.body > self.memory:
            raise ConfigError("--max-memory must hold one request of --max-bytes")
