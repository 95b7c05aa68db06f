"""Adapters and pictures for tests of the server, and a server that really listens, in a thread of this process."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image

from vitadapt.methods import KAdaptation
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head import Classifier, Head
from vitadapt.nn.setting import Setting
from vitadapt.nn.surgery import adapt, trainable
from vitadapt.serving.server.limits import Limits
from vitadapt.serving.server.run import Address, make_server, url_of
from vitadapt.serving.server.service import Service
from vitadapt.training.adapter_file import AdapterInfo, adapter_bytes
from vitadapt.weights import load_backbone

PETS, CARS = ("cat", "dög", "fish"), ("bus", "van", "taxi", "lorry", "tram")
TOKEN = "s3cret-token"


@cache
def backbone_of(name):
    backbone = load_backbone(name)
    return backbone, backbone_digest(backbone)


def adapter(seed, classes, method=None, backbone="random:tiny", recorded=None, **about):
    """The bytes of an adapter whose every trainable tensor has moved, so that each seed answers otherwise."""
    method = method or KAdaptation()
    plain, digest = backbone_of(backbone)
    model = Classifier(adapt(plain, method, seed), Head(plain.features, len(classes))).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    info = AdapterInfo(method, recorded or backbone, plain.image_size, classes, digest)
    return adapter_bytes(model, replace(info, **about))


def picture(seed=0, size=(80, 60), kind="PNG", mode="RGB", **options):
    """A picture of noise as the bytes of a file."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, kind, **options)
    return file.getvalue()


class Running:
    """A listening server."""

    def __init__(self, service, server, listener):
        self.service, self.server, self.url = service, server, url_of(listener)
        self.port = listener.getsockname()[1]

    def client(self, **options):
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)


@contextmanager
def running(folder: Path, token="", poll=0.05, resident=None, backbone=None, **limits) -> Iterator[Running]:
    """A server of `folder`; when the block ends it ends in order, and every thread of it is gone."""
    log: list[str] = []
    bounds = replace(Limits(decoders=2, header_timeout=5.0, read_timeout=5.0), **limits)
    service = Service(folder, Setting(), bounds, resident, poll, log.append, backbone)
    server, listener = make_server(service, Address(port=0, token=token))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until(lambda: service.ready)
        made = Running(service, server, listener)
        made.log = log
        yield made
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
    assert not thread.is_alive() and service.queue.used == 0


def until(ready, seconds=30.0):
    """Wait for something that another thread does; a test that never gets there fails."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def counts(client):
    lines = (line.rpartition(" ") for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def in_use(server):
    """Names of the models of which the banks hold a version; it fails when they hold two of one."""
    keys = [key for group in server.service.repository._groups.values() if group._bank for key in group._bank.names]
    names = [key.rpartition("@")[0] for key in keys]
    assert len(set(names)) == len(names), keys
    return set(names)
