"""How much the server accepts from its clients, in one place; docs/server.md lists every number."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields

from ...utils.errors import ConfigError
from ...utils.limits import IMAGE_PIXELS, MIB

EXPLANATION = 16  # places in the queue that one explanation takes: it costs about as much as so many predictions


@dataclass(frozen=True)
class Limits:
    """The limits of one server. The fields are called like the options of `vitadapt serve`.

    batch and wait_ms: images that the network computes together, and how long the first of them waits for others.
    queue: images that are accepted and not answered yet; beyond it the answer is 503. max_bytes, max_pixels,
    max_images: bytes of a request, pixels of an image, images of a request. max_memory: bytes of all requests in
    progress. max_requests and max_connections: at a time. timeout, read_timeout and header_timeout: seconds until the
    answer, the body and the header of a request must be there. decoders: threads that decode images. max_models: how
    many are served when one more is uploaded.

    Raises ConfigError for a number that cannot work.
    """

    batch: int = 32
    wait_ms: float = 5.0
    queue: int = 512
    max_bytes: int = 20 * MIB
    max_pixels: int = 50_000_000
    max_images: int = 32
    max_memory: int = 512 * MIB
    max_requests: int = 512
    max_connections: int = 1024
    timeout: float = 60.0
    read_timeout: float = 30.0
    header_timeout: float = 10.0
    decoders: int = min(4, os.cpu_count() or 1)
    max_models: int = 10_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value, option = getattr(self, field.name), field.name.replace("_", "-")
            if option == "wait-ms" and value == 0:
                continue
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"--{option} must be a number {'from 0 on' if option == 'wait-ms' else 'above 0'}")
        if self.max_pixels > IMAGE_PIXELS:
            raise ConfigError(f"--max-pixels can be {IMAGE_PIXELS} at most, got {self.max_pixels}")
        least = max(self.max_images, EXPLANATION)
        if self.queue < least:
            raise ConfigError(f"--queue must hold the images of one request, {least} at least")
        if self.max_bytes > self.max_memory:
            raise ConfigError("--max-memory must hold one request of --max-bytes")
