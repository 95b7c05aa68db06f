"""A server for minutes under good and bad requests, slow senders and changing adapters: its memory must stay flat.

    python benchmarks/soak.py --minutes 10

Prints requests and answers by status, and the resident memory of the server over time; status 1 when an answer was
wrong, a status was not one of those expected, or memory was still rising: a line through the second half of the time
must not climb by more than --slope MB in ten minutes. Less than five minutes are too few to tell, and are not judged.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from vitadapt.methods.spec import parse_method
from vitadapt.training.adapter_file import AdapterInfo, adapter_bytes
from vitadapt.utils.files import write_atomic

METHODS = ("kadaptation", "lora", "bitfit", "linear-probe", "adapter")
CLASSES = tuple(f"class {i}" for i in range(12))
EXPECTED = {"good": {200, 503}, "bad": {401, 404, 413, 415, 422, 503}, "cut": {0}, "model": {200, 201, 503}}
TOKEN = "soak"


def adapter(seed: int) -> bytes:
    """An adapter of one of the methods, different for every seed."""
    import torch

    from vitadapt.nn.head import Classifier, Head
    from vitadapt.nn.surgery import adapt, trainable
    from vitadapt.training.features import cached_backbone

    method = parse_method(METHODS[seed % len(METHODS)])
    backbone, digest = cached_backbone("random:tiny", None, "cpu")
    classes = CLASSES[: 2 + seed % 11]
    model = Classifier(adapt(backbone, method, seed), Head(64, len(classes))).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return adapter_bytes(model, AdapterInfo(method, "random:tiny", 32, classes, digest))


def pictures() -> list[bytes]:
    """Of several sizes and formats."""
    made = []
    for seed, (kind, side) in enumerate((("PNG", 60), ("JPEG", 400), ("WEBP", 120), ("JPEG", 1600), ("GIF", 50))):
        noise = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).resize((side, side)).save(file, kind)
        made.append(file.getvalue())
    return made


class Soak:
    """One server's clients, and what they saw."""

    def __init__(self, url: str, folder: Path, seed: int, swaps: float) -> None:
        self.url, self.folder, self.random = url, folder, random.Random(seed)
        self.shares = (73 - swaps, 22, 5, swaps)  # percent
        self.files = pictures()
        self.adapters = [adapter(i) for i in range(24)]
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.wrong: list[str] = []
        self.versions: dict[tuple[str, str], dict[str, float]] = {}

    async def client(self, end: float) -> None:
        """Ask one thing after the other until `end`."""
        limits = httpx.Limits(max_keepalive_connections=2, keepalive_expiry=2)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(
            base_url=self.url, timeout=60, limits=limits, headers=headers, trust_env=False
        ) as http:
            while time.monotonic() < end:
                kind = self.random.choices(("good", "bad", "cut", "model"), self.shares)[0]
                try:
                    status = await getattr(self, f"_{kind}")(http)
                except httpx.TransportError:
                    status = -1  # a connection that broke: never expected
                self.statuses[kind, status] += 1
                if status not in EXPECTED[kind]:
                    self.wrong.append(f"{kind}: status {status}")

    async def _good(self, http: httpx.AsyncClient) -> int:
        name, file = f"m{self.random.randrange(8)}", self.random.choice(self.files)
        path = f"/v1/{name}/predict?top=12"
        way = self.random.randrange(4)
        if way == 0:
            sent = await http.post(path, files=[("f", file)] * self.random.randint(1, 5))
        elif way == 1:
            sent = await http.post(path, json={"image": base64.b64encode(file).decode()})
        elif way == 2:
            sent = await http.post(path, content=file, headers={"content-type": "image/*"})
        else:
            sent = await http.post(f"/v1/{name}/explain?picture=overlay", files={"f": file})
            return int(sent.status_code)
        if sent.status_code == 200:
            self._check(name, self.files.index(file), sent.json())
        return int(sent.status_code)

    def _check(self, name: str, which: int, body: dict[str, Any]) -> None:
        """The same picture and version get the same answer for ever; probabilities sum to one."""
        for row in body["answers"]:
            known = self.versions.setdefault((f"{body['version']} {which}", name), row["top"])
            off = max(abs(known[label] - value) for label, value in row["top"].items())
            if off > 1e-5 or abs(sum(row["top"].values()) - 1) > 1e-4:
                self.wrong.append(f"{name}: an answer is off by {off:.2g}")
        if len(self.versions) > 5000:
            self.versions.clear()

    async def _bad(self, http: httpx.AsyncClient) -> int:
        post, path = http.post, "/v1/m1/predict"
        ways = (
            lambda: post(path, files={"f": b"no picture"}),
            lambda: post(path, files={"f": self.files[1][:300]}),
            lambda: post(path, json={"image": "#" * 1000}),
            lambda: post(path, content=b"{" * 10_000, headers={"content-type": "application/json"}),
            lambda: post("/v1/nobody/predict", files={"f": self.files[0]}),
            lambda: post(path, content=b"x" * 5_000_000, headers={"content-type": "image/png"}),
            lambda: post(path, files=[("f", self.files[0])] * 60),
            lambda: http.get("/v1/models", headers={"Authorization": "Bearer nobody"}),
            lambda: post("/v1/models/broken", content=b"x", headers={"content-type": "application/octet-stream"}),
            lambda: post(path, content=b"hello"),
        )
        return int((await self.random.choice(ways)()).status_code)

    async def _cut(self, _: httpx.AsyncClient) -> int:
        """A sender that stops half-way."""
        _, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        head = (
            b"POST /v1/m1/predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer soak\r\nContent-Length: 9000\r\n"
        )
        writer.write(self.random.choice((b"", head, head + b"\r\n" + b"x" * 4000)))
        await writer.drain()
        await asyncio.sleep(self.random.random() * 2)
        writer.close()
        return 0

    async def _model(self, http: httpx.AsyncClient) -> int:
        """Swap an adapter: over HTTP, or by its file."""
        name, data = f"m{self.random.randrange(8)}", self.random.choice(self.adapters)
        if self.random.random() < 0.5:
            write_atomic(self.folder / f"{name}.safetensors", data)
            return 200
        kind = {"content-type": "application/octet-stream"}
        return int((await http.post(f"/v1/models/{name}", content=data, headers=kind)).status_code)


def memory_mb(pid: int, kind: str = "VmRSS") -> float:
    """Resident memory of a process, from /proc; "RssAnon" is that without the pages of files, such as libraries."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) * 1024 / 1e6


async def soak(work: Soak, pid: int, minutes: float, clients: int) -> list[float]:
    """Memory at 50 equal times."""
    start, seen = time.monotonic(), []
    end = start + 60 * minutes
    tasks = [asyncio.create_task(work.client(end)) for _ in range(clients)]
    for step in range(1, 51):
        await asyncio.sleep(max(0.0, start + 60 * minutes * step / 50 - time.monotonic()))
        seen.append(memory_mb(pid))
    await asyncio.gather(*tasks)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--swaps", type=float, default=3, help="percent of the requests that change an adapter")
    parser.add_argument("--slope", type=float, default=10, help="MB in ten minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for i in range(8):
            (folder / f"m{i}.safetensors").write_bytes(adapter(i))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "vitadapt", "serve", made, "--port", str(port), "--max-bytes", "4000000"]
        command += ["--resident", "4", "--queue", "64", "--poll", "0.5", "--read-timeout", "9"]
        process = subprocess.Popen(
            command, env={**os.environ, "VITADAPT_TOKEN": TOKEN, "MALLOC_ARENA_MAX": "2"}, stderr=subprocess.DEVNULL
        )
        work = Soak(f"http://127.0.0.1:{port}", folder, options.seed, options.swaps)
        try:
            while not reachable(port):
                time.sleep(0.1)
            memory = asyncio.run(soak(work, process.pid, options.minutes, options.clients))
            process.send_signal(signal.SIGTERM)
            status = process.wait(120)
        finally:
            process.kill()
    report(work, memory, status, options)


def reachable(port: int) -> bool:
    try:
        return bool(httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200)
    except httpx.HTTPError:
        return False


def report(work: Soak, memory: list[float], status: int, options: argparse.Namespace) -> None:
    """Print, and exit with 1 when something was wrong."""
    total = sum(work.statuses.values())
    print(
        f"{total} requests in {options.minutes:g} minutes from {options.clients} clients; "
        f"the server's exit status: {status}"
    )
    for (kind, code), count in sorted(work.statuses.items()):
        print(f"  {kind:<6} {code or 'cut off':<8} {count}")
    slope = climb(memory) * 600 / (60 * options.minutes / len(memory))
    print("memory, MB: " + " ".join(f"{value:.0f}" for value in memory[::5]) + f" {memory[-1]:.0f}")
    print(f"second half: {slope:+.1f} MB in ten minutes, highest {max(memory):.0f} MB")
    for line, count in Counter(work.wrong).most_common(10):
        print(f"WRONG {count} x {line}")
    if options.json:
        kinds = {f"{kind} {code}": count for (kind, code), count in sorted(work.statuses.items())}
        write_atomic(options.json, json.dumps({"statuses": kinds, "memory": memory, "wrong": work.wrong}).encode())
    sys.exit(bool(work.wrong or status or (options.minutes >= 5 and slope > options.slope)))


def climb(memory: list[float]) -> float:
    """How much the second half rises from one measurement to the next: the slope of its line of least squares."""
    half = memory[len(memory) // 2 :]
    return float(np.polyfit(range(len(half)), half, 1)[0])


if __name__ == "__main__":
    main()
