"""The server under load and malice: nothing is mixed, lost or unbounded, and it ends in order."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch
from server_cases import CARS, PETS, TOKEN, adapter, backbone_of, counts, in_use, picture, running, until

from vitadapt.data import Geometry
from vitadapt.data.image_file import open_image
from vitadapt.data.images import to_pixels
from vitadapt.serving.server.batching import Batcher, Queue
from vitadapt.serving.server.connection import PIECES, Connection
from vitadapt.serving.server.limits import EXPLANATION, Limits
from vitadapt.serving.server.refusal import Refusal, public, refusal_of
from vitadapt.serving.server.run import Address
from vitadapt.training.adapter_file import load_adapter
from vitadapt.utils.errors import ConfigError, VitadaptError

FILE = ("a.png", picture(1))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "models"
    root.mkdir()
    (root / "pets.safetensors").write_bytes(adapter(1, PETS))
    return root


def ask(client, name="pets", file=FILE, **options):
    return client.post(f"/v1/{name}/predict", files={"f": file}, **options)


def put(path, data):
    """A file that appears whole."""
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(data)
    os.replace(draft, path)


# ---- batches


def answered(compute, questions, most=4, wait=0.0, cancel=()):
    """What becomes of questions that are all asked at once."""

    async def go():
        with ThreadPoolExecutor(1) as thread:
            batches = Batcher(compute, thread, most, wait)
            task = asyncio.create_task(batches.run())
            futures = [batches.submit(question) for question in questions]
            for place in cancel:
                futures[place].cancel()
            found = await asyncio.gather(*futures, return_exceptions=True)
            task.cancel()
            return found

    return asyncio.run(go())


def test_questions_are_answered_together_in_order_and_each_once():
    seen = []

    def compute(questions):
        seen.append(list(questions))
        return [10 * question for question in questions]

    assert answered(compute, range(10)) == [10 * question for question in range(10)]
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_an_error_reaches_only_the_one_whose_it_is():
    def compute(questions):
        if 2 in questions:
            raise ValueError("two")
        return [question + 1 for question in questions]

    found = answered(compute, range(4))
    assert found[:2] == [1, 2] and isinstance(found[2], ValueError) and found[3] == 4


def test_what_was_taken_back_is_not_computed():
    seen = []

    def compute(questions):
        seen.extend(questions)
        return list(questions)

    found = answered(compute, range(4), cancel=[0, 2])
    assert seen == [1, 3] and found[1] == 1 and found[3] == 3


def test_a_lonely_question_waits_for_others_only_so_long():
    sizes = []

    def compute(questions):
        sizes.append(len(questions))
        return list(questions)

    async def go():
        with ThreadPoolExecutor(1) as thread:
            batches = Batcher(compute, thread, 3, 30.0)
            task = asyncio.create_task(batches.run())
            first = batches.submit(1)
            await asyncio.sleep(0.05)
            assert not first.done()  # it waits for others
            full = [batches.submit(2), batches.submit(3)]  # and a full batch goes at once
            await asyncio.gather(first, *full)
            task.cancel()

    asyncio.run(go())
    assert sizes == [3]


def test_room_is_given_back_also_when_it_went_wrong():
    queue = Queue(3)
    with pytest.raises(ZeroDivisionError), queue.reserve(3):
        with pytest.raises(Refusal, match="3 images are waiting"), queue.reserve(1):
            raise AssertionError
        raise ZeroDivisionError
    assert queue.used == 0


# ---- many at a time, while adapters change


def version_of(data, tmp_path, classes, squares):
    """Every picture's probabilities by one content of an adapter, computed apart from all else."""
    path = tmp_path / "one.safetensors"
    path.write_bytes(data)
    with torch.inference_mode():
        logits = load_adapter(path, *backbone_of("random:tiny"))(squares)
    return [dict(zip(classes, row.tolist(), strict=True)) for row in logits.softmax(1)]


def test_two_hundred_at_a_time_while_adapters_are_swapped(folder, tmp_path):
    """Good answers equal one version's, whole, labels included; bad requests hurt nobody."""
    files = [picture(i, (40 + i, 50)) for i in range(4)]
    squares = torch.from_numpy(np.stack([to_pixels(open_image(data, "x"), Geometry(32)) for data in files]))
    contents = [adapter(seed, classes) for seed, classes in ((1, PETS), (2, CARS), (3, PETS), (4, CARS[:2]))]
    classes_of = [PETS, CARS, PETS, CARS[:2]]
    known = [version_of(data, tmp_path, own, squares) for data, own in zip(contents, classes_of, strict=True)]
    (folder / "cars.safetensors").write_bytes(adapter(9, CARS))
    cars = version_of(adapter(9, CARS), tmp_path, CARS, squares)
    bad = [b"no picture", files[0][:200], b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 50]

    async def one(client, number):
        name, which = ("cars", number % 4) if number % 5 == 1 else ("pets", number % 4)
        if number % 5 == 0:
            sent = await client.post(f"/v1/{name}/predict", files={"f": bad[number // 5 % 4]})
            return "bad", sent.status_code, None, None
        if number % 25 == 2:
            sent = await client.post("/v1/nobody/predict", files={"f": files[which]})
            return "nobody", sent.status_code, None, None
        sent = await client.post(f"/v1/{name}/predict?top=9", files=[("f", data) for data in files])
        return name, sent.status_code, which, sent.json()

    async def all_of(url, server):
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120, trust_env=False) as client:
            tasks = [asyncio.create_task(one(client, number)) for number in range(200)]
            for data in (*contents[1:], *contents):
                before = server.service.repository.changes
                put(folder / "pets.safetensors", data)
                while server.service.repository.changes == before:
                    await asyncio.sleep(0.01)
            return await asyncio.gather(*tasks)

    with running(folder, poll=0.01, queue=1000) as server:
        found = asyncio.run(all_of(server.url, server))
        with server.client() as client:
            assert client.get("/readyz").status_code == 200
            assert counts(client)["vitadapt_queued_images"] == 0
        assert in_use(server) == {"pets", "cars"}  # old versions are given up
    statuses = {(kind, status) for kind, status, _, _ in found}
    assert statuses == {("bad", 422), ("nobody", 404), ("pets", 200), ("cars", 200)}
    versions = set()
    for name, _, _, body in (one for one in found if one[3]):
        tops = [row["top"] for row in body["answers"]]
        options = [cars] if name == "cars" else known
        fits = [all(top == pytest.approx(own, abs=1e-5) for top, own in zip(tops, way, strict=True)) for way in options]
        assert sum(fits) >= 1, body
        versions.add((name, body["version"], fits.index(True)))
    assert len({version for _, version, _ in versions}) == len(versions)  # a version's name means one content


# ---- the folder


def test_a_half_copied_adapter_is_left_alone_and_disturbs_nobody(folder):
    new, path = adapter(5, CARS), folder / "cars.safetensors"
    with running(folder) as server, server.client() as client:
        repository = server.service.repository
        with open(path, "wb") as file:
            for start in range(0, len(new), len(new) // 3):
                file.write(new[start : start + len(new) // 3])
                file.flush()
                assert ask(client).status_code == 200
                if start + len(new) // 3 < len(new):
                    assert ask(client, "cars").status_code == 404
        until(lambda: "cars" in repository.models)
        assert ask(client, "cars").json()["answers"][0]["class"] in CARS and not repository.problems


def test_what_is_damaged_replaces_nothing_and_is_told_once(folder):
    old, path = adapter(1, PETS), folder / "pets.safetensors"
    with running(folder) as server, server.client() as client:
        repository = server.service.repository
        before = ask(client).json()
        flipped = bytearray(adapter(2, PETS))
        flipped[-3] ^= 4
        put(path, bytes(flipped))
        until(lambda: "pets" in repository.problems)
        assert ask(client).json() == before
        time.sleep(0.3)
        assert sum("not taken" in line for line in server.log) == 1 and "stays" in server.log[-1]
        assert "pets" in client.get("/v1/models").json()["problems"]
        put(path, old)
        until(lambda: not repository.problems)
        put(path, adapter(2, PETS))
        until(lambda: repository.models["pets"].digest[:12] != before["version"])
        assert ask(client).json()["version"] != before["version"]


def test_models_come_and_go_with_their_files(folder):
    with running(folder) as server, server.client() as client:
        models = lambda: set(server.service.repository.models)  # noqa: E731
        (folder / "fitted").mkdir()
        put(folder / "fitted" / "adapter.safetensors", adapter(3, CARS))
        until(lambda: models() == {"pets", "fitted"})
        os.rename(folder / "pets.safetensors", folder / "cats.safetensors")
        until(lambda: models() == {"cats", "fitted"})
        assert ask(client).status_code == 404 and ask(client, "cats").status_code == 200
        shutil.rmtree(folder / "fitted")
        (folder / "models.safetensors").write_bytes(adapter(3, CARS))  # the server's own word
        until(lambda: models() == {"cats"} and "models" in server.service.repository.problems)
        (folder / "cats.safetensors").unlink()
        (folder / "models.safetensors").unlink()
        until(lambda: not models() and not server.service.repository.problems)
        assert "no model is served yet" in ask(client, "cats").json()["error"]["message"]
        put(folder / "back.safetensors", adapter(1, PETS))
        until(lambda: models() == {"back"})
        assert ask(client, "back").status_code == 200
        away = folder.with_name("away")
        folder.rename(away)
        until(lambda: "." in server.service.repository.problems)
        assert ask(client, "back").status_code == 200  # a folder that vanished takes nothing with it
        away.rename(folder)
        until(lambda: not server.service.repository.problems)


def test_names_that_come_and_go_leave_nothing_behind(folder):
    with running(folder) as server, server.client() as client:
        assert ask(client).status_code == 200 and 'vitadapt_images_total{model="pets"}' in counts(client)
        (folder / "pets.safetensors").unlink()
        until(lambda: 'vitadapt_images_total{model="pets"}' not in counts(client))
        repository = server.service.repository
        assert not (repository.models or repository._groups or repository._read)


def test_what_cannot_be_served_is_named_and_stops_nothing_else(folder):
    """A link to itself, a link to nothing, a name that is not UTF-8; and letters that a terminal obeys."""
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "round.safetensors").symlink_to(folder / "round.safetensors")
    (folder / "nothing.safetensors").symlink_to(folder / "gone")
    (folder / os.fsdecode(b"caf\xe9.safetensors")).write_bytes(adapter(2, CARS))
    os.mkdir(folder / os.fsdecode(b"\xff"))
    (folder / "red\x1b[31m.safetensors").write_bytes(adapter(3, PETS))
    (folder / "bad\x1b[31m.safetensors").write_bytes(b"")
    with running(folder) as server, server.client() as client:
        listed = client.get("/v1/models").json()
        assert {one["name"] for one in listed["models"]} == {"pets", "red\x1b[31m"}
        unusable = {"loop", "round", "nothing", "caf\\udce9", "\\udcff", "bad\x1b[31m"}
        assert listed["problems"].keys() == unusable
        assert "not UTF-8" in listed["problems"]["caf\\udce9"] and "links" in listed["problems"]["loop"]
        put(folder / "cars.safetensors", adapter(4, CARS))  # changes are still seen
        until(lambda: "cars" in server.service.repository.models)
        (folder / "loop").unlink()
        until(lambda: "loop" not in server.service.repository.problems)
        assert ask(client, "red%1b[31m").status_code == 200
    assert all(line.isprintable() for line in server.log) and len(server.log) == 9


def test_folders_of_the_user_with_names_like_temporary_ones_are_served_and_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = tmp_path / "vitadapt-serve-mine"
    (root / "pets").mkdir(parents=True)
    (root / "pets" / "adapter.safetensors").write_bytes(adapter(1, PETS))
    (tmp_path / "vitadapt-bank-mine").mkdir()
    with running(root, resident=1) as server, server.client() as client:
        assert ask(client).status_code == 200
        assert {path.name for path in tmp_path.iterdir()} == {"vitadapt-serve-mine", "vitadapt-bank-mine"}
    assert (root / "pets" / "adapter.safetensors").exists()


def test_a_backbone_that_has_moved_is_named_anew(folder):
    """For the adapters that stand on it, by its digest; others find their own."""
    moved = adapter(2, CARS, backbone="random:tiny-clip", recorded="file:/gone/vit.safetensors")
    (folder / "moved.safetensors").write_bytes(moved)
    with running(folder) as server:
        assert "--backbone" in server.service.repository.problems["moved"]
    with running(folder, backbone="random:tiny-clip") as server, server.client() as client:
        assert ask(client, "moved").status_code == 200 and ask(client).status_code == 200


def test_a_folder_without_models_may_vanish_and_come_back(folder):
    (folder / "pets.safetensors").unlink()
    with running(folder) as server, server.client() as client:
        folder.rmdir()
        until(lambda: "." in server.service.repository.problems)
        folder.mkdir()
        put(folder / "pets.safetensors", adapter(1, PETS))
        until(lambda: "pets" in server.service.repository.models)
        assert ask(client).status_code == 200


def test_a_lack_of_memory_while_a_model_is_taken_is_told_and_does_not_end_the_watch(folder, monkeypatch):
    def too_large(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory")

    with running(folder) as server, server.client() as client:
        repository = server.service.repository
        with monkeypatch.context() as patch:
            patch.setattr("vitadapt.serving.server.model_groups.ModelGroup.add", too_large)
            put(folder / "cars.safetensors", adapter(2, CARS))
            until(lambda: "can't allocate memory" in repository.problems.get("cars", ""))
        assert ask(client).status_code == 200 and in_use(server) == {"pets"}
        put(folder / "cars.safetensors", adapter(3, CARS))
        until(lambda: "cars" in repository.models and not repository.problems)


def test_adapters_that_are_not_resident_answer_the_same(folder):
    for seed in range(2, 6):
        (folder / f"m{seed}.safetensors").write_bytes(adapter(seed, CARS))
    bodies = []
    for resident in (None, 1):
        with running(folder, resident=resident) as server, server.client() as client:
            bodies.append([ask(client, name).json() for name in ("m2", "m3", "m4", "m5", "pets", "m2")])
    assert bodies[0] == bodies[1]


# ---- too much


@pytest.fixture
def held(folder):
    """(server, client, release): a network that is busy until it is released."""
    free = threading.Event()
    with running(folder, queue=40, max_images=16, max_requests=30, wait_ms=1.0) as server, server.client() as client:
        server.service._network.submit(free.wait)
        try:
            yield server, client, free.set
        finally:
            free.set()


def later(threads, work, *arguments, **options) -> Future:
    return threads.submit(work, *arguments, **options)


def test_beyond_the_queue_the_answer_is_503_and_the_accepted_are_answered(held):
    server, client, release = held
    with ThreadPoolExecutor(5) as threads:
        ten = [("f", picture(1))] * 10
        accepted = [later(threads, client.post, "/v1/pets/predict", files=ten) for _ in range(4)]
        until(lambda: server.service.queue.used == 40)
        refused = ask(client)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "busy"
        assert client.post("/v1/pets/explain", files={"f": FILE}).status_code == 503
        assert client.get("/healthz").status_code == 200 and counts(client)["vitadapt_queued_images"] == 40
        release()
        assert [sent.result().status_code for sent in accepted] == [200] * 4
    assert ask(client).status_code == 200


def test_beyond_the_requests_the_answer_is_503_but_health_is_told(held):
    server, client, release = held
    with ThreadPoolExecutor(30) as threads:
        accepted = [later(threads, ask, client) for _ in range(30)]
        until(lambda: server.service.queue.used == 30)
        refused = client.get("/v1/models")
        assert refused.status_code == 503 and "30 requests" in refused.json()["error"]["message"]
        assert client.get("/healthz").status_code == 200
        release()
        assert {sent.result().status_code for sent in accepted} == {200}


def test_a_request_whose_answer_takes_too_long_is_told_so_and_leaves_nothing_behind(folder):
    free = threading.Event()
    with running(folder, timeout=0.2) as server, server.client() as client:
        server.service._network.submit(free.wait)
        try:
            late = ask(client)
            assert late.status_code == 503 and "0.2 seconds" in late.json()["error"]["message"]
            assert late.headers["retry-after"] == "1"
            until(lambda: server.service.queue.used == 0)
        finally:
            free.set()
        until(lambda: ask(client).status_code == 200)


def talk(port, *parts, pause=0.0, wait=20.0):
    """What the server says to these bytes, until it hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as line:
        try:
            for part in parts:
                line.sendall(part)
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass
        reply = b""
        try:
            while part := line.recv(65536):
                reply += part
        except ConnectionResetError:
            pass
        return reply.decode("latin-1")


POST = b"POST /v1/pets/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


def test_slow_senders_are_cut_off_and_cost_nobody_else(folder):
    """Silence, a header in drops, a second header in drops, a body in drops."""
    drops = [bytes([letter]) for letter in b"X-Slow: " + b"x" * 100]
    with running(folder, header_timeout=0.4, read_timeout=0.4) as server, server.client() as client:
        cases = {
            "silence": ([], 0, "408"),
            "header": ([b"GET /healthz HTTP/1.1\r\n", *drops], 0.05, "408"),
            "second header": ([b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET", *drops], 0.05, "408"),
            "body": ([POST + b"Content-Length: 5000\r\n\r\n", *drops], 0.05, "408"),
            "pieces": ([POST + b"Transfer-Encoding: chunked\r\n\r\n", *([b"1\r\nx\r\n"] * 40)], 0.05, "408"),
        }
        with ThreadPoolExecutor(len(cases)) as threads:
            lines = {
                name: later(threads, talk, server.port, *parts, pause=pause)
                for name, (parts, pause, _) in cases.items()
            }
            assert ask(client).status_code == 200  # meanwhile
            for name, (_, _, status) in cases.items():
                reply = lines[name].result()
                assert f"HTTP/1.1 {status}" in reply or name == "second header", (name, reply)
                assert "Traceback" not in reply
        assert "HTTP/1.1 200" in lines["second header"].result()
        until(lambda: len(server.server.server_state.connections) <= 1)
        assert ask(client).status_code == 200


def test_lies_about_the_length_and_bad_protocol_are_refused(folder):
    with running(folder, max_bytes=50_000, header_timeout=1.0, read_timeout=1.0) as server, server.client() as client:
        port = server.port
        for parts, status in (
            ([POST + b"Content-Length: 99999999999999\r\n\r\n"], "413"),
            ([POST + b"Content-Length: 60000\r\nExpect: 100-continue\r\n\r\n"], "413"),
            ([POST + b"Content-Length: -5\r\n\r\n"], "400"),
            ([POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"], "400"),
            ([POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"], "400"),
            ([b"GET / HTTP/9.9\r\n\r\n"], "4"),
            ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], "4"),
            ([b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000], "400"),
            ([b"GET / HTTP/1.1\r\n\r\n"], "4"),
        ):
            reply = talk(port, *parts)
            assert f"HTTP/1.1 {status}" in reply and '"error"' in reply, (parts, reply)
        assert "100 Continue" in talk(port, POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        for more in (b"", b"Expect: 100-continue\r\n"):  # which curl sends, and then all the same its body
            head = POST + more + b"Transfer-Encoding: chunked\r\n\r\n"
            huge = talk(port, head, *([b"2000\r\n" + b"x" * 8192 + b"\r\n"] * 200), b"0\r\n\r\n")
            assert "413" in huge and "too_large" in huge
        assert ask(client).status_code == 200
        until(lambda: server.service.queue.used == 0)


CHUNKED = b"Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\n",
        b"POST /healthz HTTP/1.1\r\n",
        b"DELETE /v1/models/pets HTTP/1.1\r\n",
        POST.replace(b"Host: localhost\r\n", b""),
    ],
)
def test_a_body_in_tiny_pieces_is_refused_after_a_bounded_number(folder, monkeypatch, head):
    """A million chunks of one byte: the server reads a thousand of them, wherever they are sent."""
    read = []
    on_body = Connection.on_body

    def counted(self, body):
        read.append(len(body))
        on_body(self, body)

    with running(folder) as server, server.client() as client:
        assert ask(client).status_code == 200
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "on_body", counted)
            answer = talk(server.port, head + CHUNKED, b"1\r\nx\r\n" * 1_000_000)
        assert len(read) <= PIECES + 1
        assert not answer or (answer.startswith("HTTP/1.1 4") and '"error"' in answer)
        assert ask(client).status_code == 200
        until(lambda: held_bytes(server) == server.service.queue.used == 0)  # freed just behind the answer


def test_a_body_where_none_is_expected_is_refused_before_it_is_read(folder):
    with running(folder) as server, server.client() as client:
        for method, path in (
            ("GET", "/healthz"),
            ("GET", "/v1/models"),
            ("POST", "/metrics"),
            ("PUT", "/v1/x/predict"),
        ):
            sent = client.request(method, path, content=b"x" * 100)
            assert sent.status_code == 413 and sent.json()["error"]["code"] == "no_body", (method, path)
            assert sent.headers["connection"] == "close"
            assert client.request(method, path, headers={"content-length": "0"}).status_code in (200, 405)


def test_bodies_in_small_network_packets_are_read(folder):
    """Only bodies whose pieces are tiny on the average are refused: a slow line is no attack."""
    body = FILE[1]
    head = POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 80]), body[i : i + 80]) for i in range(0, len(body), 80))
    with running(folder) as server:
        assert talk(server.port, head, *(body[i : i + 500] for i in range(0, len(body), 500))).startswith(
            "HTTP/1.1 200"
        )
        chunked = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert talk(server.port, chunked, pieces + b"0\r\n\r\n").startswith("HTTP/1.1 200")


def test_a_client_that_leaves_or_does_not_listen_leaves_nothing_behind(folder):
    with running(folder, read_timeout=0.5) as server, server.client() as client:
        for _ in range(5):
            line = socket.create_connection(("127.0.0.1", server.port))
            line.sendall(POST + b"Content-Length: 5000\r\n\r\nabc")
            line.close()
        deaf = socket.create_connection(("127.0.0.1", server.port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(0.5)
        try:
            for _ in range(4000):
                deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        except OSError:
            pass  # the server does not take more than it can answer
        assert ask(client).status_code == 200
        until(lambda: len(server.server.server_state.connections) <= 1)
        deaf.close()


def test_what_nobody_waits_for_any_more_is_not_computed(held):
    """Clients that leave while their questions wait give their places back before the network is free for them."""
    server, client, release = held
    body = b"Content-Length: %d\r\n\r\n" % len(FILE[1]) + FILE[1]
    gone = [POST + body] * 3 + [POST.replace(b"predict", b"explain") + body]
    with ThreadPoolExecutor(1) as threads:
        stays = later(threads, ask, client)
        lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in gone]
        for line, reply in zip(lines, gone, strict=True):
            line.sendall(reply)
        until(lambda: server.service.queue.used == 1 + 3 + EXPLANATION)
        for line in lines:
            line.close()
        until(lambda: server.service.queue.used == 1)
        release()
        assert stays.result().status_code == 200
    version = server.service.repository.models["pets"]
    until(lambda: version.users == 0)
    seen = counts(client)
    assert seen["vitadapt_batch_images_sum"] == 1
    assert seen['vitadapt_requests_total{code="499",route="/v1/{model}/predict"}'] == 3


def test_more_connections_than_allowed_are_told_so(folder):
    with running(folder, max_connections=8) as server:
        open_ = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)]
        until(lambda: len(server.server.server_state.connections) == 8)
        assert "HTTP/1.1 503" in talk(server.port)
        for line in open_:
            line.close()
        until(lambda: not server.server.server_state.connections)
        with server.client() as client:
            assert ask(client).status_code == 200


def test_bodies_in_progress_are_bounded_together(folder):
    with running(folder, max_bytes=60_000, max_memory=100_000) as server, server.client() as client:
        lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        for line in lines:
            line.sendall(POST + b"Content-Length: 60000\r\n\r\n" + b"x" * 45_000)
        until(lambda: counts(client)["process_open_fds"] > 0 and held_bytes(server) == 90_000)
        big = ask(client, file=("x.png", b"x" * 30_000))
        assert big.status_code == 503 and big.json()["error"]["code"] == "busy"
        for line in lines:
            line.close()
        until(lambda: held_bytes(server) == 0)
        assert ask(client).status_code == 200


def held_bytes(server):
    return server.server.config.app.memory


# ---- the end, and the command


def test_whatever_was_accepted_is_answered_before_the_end(held):
    server, client, release = held
    with ThreadPoolExecutor(20) as threads:
        accepted = [later(threads, ask, client) for _ in range(20)]
        until(lambda: server.service.queue.used == 20)
        server.server.should_exit = True
        until(lambda: refuses(server.port))
        release()
        assert [sent.result().status_code for sent in accepted] == [200] * 20


def refuses(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


def test_the_command_serves_answers_curl_and_ends_in_order(folder, tmp_path):
    """A process of its own: curl's answers, the token from the environment, SIGTERM with requests on their way."""
    (tmp_path / "a.png").write_bytes(FILE[1])
    command = [sys.executable, "-m", "vitadapt", "serve", str(folder), "--port", "0"]
    environment = {**os.environ, "VITADAPT_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        lines = [process.stderr.readline(), process.stderr.readline()]
        assert "pets: added (3 classes)" in lines[0] and "1 model at http://127.0.0.1:" in lines[1], lines
        url = next(word for word in lines[1].split() if word.startswith("http"))
        guard = ["-H", f"Authorization: Bearer {TOKEN}"]
        assert json.loads(curl(*guard, f"{url}/v1/models"))["models"][0]["name"] == "pets"
        form = json.loads(curl(*guard, "-F", f"file=@{tmp_path / 'a.png'}", f"{url}/v1/pets/predict"))
        raw = [*guard, "-H", "Content-Type: image/png", "--data-binary", f"@{tmp_path / 'a.png'}"]
        assert json.loads(curl(*raw, f"{url}/v1/pets/predict"))["answers"][0]["top"] == form["answers"][0]["top"]
        curl(*guard, "-F", f"file=@{tmp_path / 'a.png'}", "-o", str(tmp_path / "heat.png"), f"{url}/v1/pets/explain")
        assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")
        assert json.loads(curl(f"{url}/v1/models"))["error"]["code"] == "no_token"
        body = FILE[1]
        head = f"POST /v1/pets/explain HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        head += f"Content-Type: image/png\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        port = int(url.rpartition(":")[2])
        with ThreadPoolExecutor(8) as threads:
            sent = [later(threads, talk, port, head.encode() + body) for _ in range(8)]
            time.sleep(0.5)  # they are on their way, or answered
            process.send_signal(signal.SIGTERM)
            assert all("HTTP/1.1 200" in one.result()[:20] for one in sent)
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def curl(*arguments):
    done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no such folder"),
        (["models", "--host", "0.0.0.0"], "--allow-anyone"),
        (["models", "--queue", "0"], "--queue must be a number above 0"),
        (["models", "--timeout", "-1"], "--timeout must be"),
        (["models", "--read-timeout", "nan"], "--read-timeout must be"),
        (["models", "--max-bytes", "0"], "--max-bytes must be"),
        (["models", "--wait-ms", "-1"], "--wait-ms must be a number from 0 on"),
        (["models", "--poll", "0"], "--poll must be"),
        (["models", "--resident", "0"], "'--resident'"),
        (["models", "--threads", "0"], "'--threads'"),
        (["models", "--queue", "20"], "--queue must hold"),
        (["models", "--max-pixels", "999999999"], "--max-pixels can be"),
        (["models", "--max-memory", "1000"], "--max-memory"),
        (["models", "--precision", "fp8"], "'fp32', 'bf16'"),
        (["models", "--port", "99999"], "0 to 65535"),
        (["models", "--host", "192.0.2.1", "--allow-anyone"], "cannot listen"),
        (["models", "--device", "nonsense"], "--device"),
    ],
)
def test_a_wrong_start_is_one_line(vitadapt, folder, arguments, words):
    done = vitadapt("serve", *arguments)
    assert done.returncode == 2 and words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 + ("--allow-anyone" in arguments)  # a warning goes before it


def test_one_model_that_cannot_be_used_is_an_error_at_once(vitadapt, tmp_path):
    (tmp_path / "one.safetensors").write_bytes(adapter(1, PETS)[:-1])
    done = vitadapt("serve", "one.safetensors", "--port", 0)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("vitadapt: one.safetensors cannot be read")


def test_a_single_model_is_served_under_its_folders_name(folder, tmp_path):
    single = tmp_path / "my cats"
    single.mkdir()
    shutil.copy(folder / "pets.safetensors", single / "adapter.safetensors")
    (single / "statistics.safetensors").touch()  # what `vitadapt fit` puts beside it is no model
    with running(single, token=TOKEN) as server, server.client(headers={"authorization": f"Bearer {TOKEN}"}) as client:
        assert ask(client, "my cats").status_code == 200
        assert client.delete("/v1/models/my cats").status_code == 409
        put(single / "adapter.safetensors", adapter(2, CARS))
        until(lambda: server.service.repository.models["my cats"].info.classes == CARS)


def test_the_extra_is_named_when_it_is_missing(vitadapt, folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = vitadapt("serve", "models")
    assert done.returncode == 2 and 'pip install "vitadapt[server]"' in done.stderr


def test_addresses_that_others_can_reach_are_told_from_those_they_cannot():
    inside, outside = (
        ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"),
        ("0.0.0.0", "::", "10.0.0.1", "box.local"),
    )
    assert all(Address(host).loopback for host in inside) and not any(Address(host).loopback for host in outside)
    assert not Address("0.0.0.0").access().hosts and Address("0.0.0.0", hosts=("Box",)).access().hosts == {"box"}


def test_limits_that_cannot_be_are_refused():
    for wrong in ({"batch": 0}, {"wait_ms": -1.0}, {"max_images": 600}, {"max_bytes": 1 << 40}):
        with pytest.raises(ConfigError):
            Limits(**wrong)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("/home/me/models/pets.safetensors: broken", "pets.safetensors: broken"),
        ("C:\\Users\\me\\x.pt is bad", "x.pt is bad"),
        ("see ~/cache/y and /a/b/c.", "see y and c."),
        ("two\nlines", "two lines"),
        ("1/2 of hf:me/model and/or 3", "1/2 of hf:me/model and/or 3"),
    ],
)
def test_messages_lose_their_paths(message, shown):
    assert public(message) == shown


def test_the_errors_of_the_package_have_a_status():
    kinds = [VitadaptError, *VitadaptError.__subclasses__()]
    assert all(400 <= refusal_of(kind("why")).status < 600 for kind in kinds)
