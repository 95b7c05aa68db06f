"""The server's answers: the same as the command's, in every way of asking; and one clear line when there is none."""

from __future__ import annotations

import base64
import io
import json
import re
import struct
import zlib
from contextlib import suppress

import httpx
import jsonschema
import pytest
from PIL import Image
from server_cases import CARS, PETS, TOKEN, adapter, counts, in_use, picture, running

from vitadapt.classifier.answer import Rules
from vitadapt.classifier.model import load_model
from vitadapt.classifier.predict import predict_images
from vitadapt.data.examples import FileRef
from vitadapt.methods import METHODS, BitFit, FineTune, LoRA
from vitadapt.nn.attribution import HEATS
from vitadapt.utils.errors import NotApplicable

FILES = {
    "a.png": picture(1),
    "b.jpg": picture(2, (300, 40), "JPEG"),
    "c.webp": picture(3, (33, 90), "WEBP"),
    "grey.png": picture(4, mode="L"),
    "deep.png": picture(5, mode="I;16"),
    "palette.gif": picture(6, kind="GIF", mode="P"),
    "moving.gif": picture(7, kind="GIF", mode="P", save_all=True, append_images=[Image.new("P", (80, 60))] * 3),
    "ink.jpg": picture(8, kind="JPEG", mode="CMYK"),
    "dot.png": picture(9, (1, 1)),
    "line.png": picture(10, (1, 2000)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("mödels of mine")
    (root / "pets").mkdir()
    (root / "pets" / "adapter.safetensors").write_bytes(adapter(1, PETS))
    (root / "cars.safetensors").write_bytes(adapter(2, CARS, LoRA()))
    (root / "squashed.safetensors").write_bytes(adapter(3, PETS, BitFit(), squash=True))
    (root / "whole.safetensors").write_bytes(adapter(4, PETS, FineTune()))
    (root / "clip.safetensors").write_bytes(adapter(5, CARS, backbone="random:tiny-clip"))
    (root / "half.safetensors").write_bytes(adapter(6, PETS)[:-100])
    (root / "notes.txt").write_text("not a model")
    (root / "empty").mkdir()
    (root / ".hidden.safetensors").write_bytes(adapter(1, PETS))
    return root


@pytest.fixture(scope="module")
def server(folder):
    with running(folder, max_bytes=300_000, max_pixels=40_000, max_images=12) as made:
        yield made


@pytest.fixture(scope="module")
def client(server):
    with server.client() as made:
        yield made


def expected(folder, name, files, top=5, threshold=None):
    """What the command says of these files."""
    path = folder / name if (folder / name).is_dir() else folder / f"{name}.safetensors"
    ((rows, broken),) = predict_images(load_model(path), [FileRef(file) for file in files], Rules(top, threshold))
    assert not broken
    return [{**row, "image": row["image"].rpartition("/")[2]} for row in rows]


def same(found, wanted):
    assert [row["image"] for row in found] == [row["image"] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one["class"] == other["class"] and list(one["top"]) == list(other["top"])
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)
        assert one["top"] == pytest.approx(other["top"], abs=1e-5)


@pytest.mark.parametrize("name", ["pets", "cars", "squashed", "whole", "clip"])
def test_every_model_answers_as_the_command_does(client, folder, tmp_path, name):
    for file, data in FILES.items():
        (tmp_path / file).write_bytes(data)
    wanted = expected(folder, name, [tmp_path / file for file in FILES])
    sent = client.post(f"/v1/{name}/predict", files=[("file", item) for item in FILES.items()])
    assert sent.status_code == 200, sent.text
    assert sent.json()["model"] == name
    same(sent.json()["answers"], wanted)


def test_three_ways_of_sending_are_one(client, folder, tmp_path):
    data = FILES["b.jpg"]
    (tmp_path / "b.jpg").write_bytes(data)
    (row,) = expected(folder, "pets", [tmp_path / "b.jpg"], top=2, threshold=0.99)
    assert row["class"] is None and len(row["top"]) == 2  # unsure
    text = base64.b64encode(data).decode()
    options = {"top": 2, "threshold": 0.99}
    for sent in (
        client.post("/v1/pets/predict", params=options, content=data, headers={"content-type": "image/jpeg"}),
        client.post("/v1/pets/predict", params=options, files={"anything": ("b.jpg", data)}),
        client.post("/v1/pets/predict", data=options, files={"anything": ("b.jpg", data)}),
        client.post("/v1/pets/predict", json={"image": text, **options}),
        client.post("/v1/pets/predict", json={"images": [f"data:image/jpeg;base64,{text}"], **options}),
    ):
        assert sent.status_code == 200, sent.text
        same(sent.json()["answers"], [{**row, "image": sent.json()["answers"][0]["image"]}])


def test_names_of_files_are_repeated_without_folders_and_harmless(client):
    names = ["/home/me/ünï.png", "C:\\pictures\\x.png", "line\nbreak\x1b[31m.png", "a" * 400, "../../etc/passwd"]
    sent = client.post("/v1/pets/predict", files=[("file", (name, FILES["a.png"])) for name in names])
    shown = [row["image"] for row in sent.json()["answers"]]
    assert shown[:2] == ["ünï.png", "x.png"] and shown[4] == "passwd"
    assert all(name.isprintable() and len(name) <= 100 for name in shown)


def test_the_list_tells_what_is_served_and_what_cannot_be(client):
    listed = client.get("/v1/models").json()
    assert [one["name"] for one in listed["models"]] == ["cars", "clip", "pets", "squashed", "whole"]
    assert listed["problems"].keys() == {"half"} and "completely" in listed["problems"]["half"]
    cars = client.get("/v1/models/cars").json()
    assert cars in listed["models"]
    assert cars["classes"] == list(CARS) and cars["backbone"] == "random:tiny" and cars["method"] == "lora"


def test_health(client):
    assert client.get("/healthz").json() == {"status": "alive"} and client.get("/readyz").json() == {"status": "ready"}


def test_what_happens_is_counted(client):
    name = 'vitadapt_requests_total{code="200",route="/v1/{model}/predict"}'
    before = counts(client).get(name, 0)
    for file in ("a.png", "b.jpg"):
        client.post("/v1/pets/predict", files={"file": FILES[file]})
    after = counts(client)
    assert after[name] == before + 2 and after["vitadapt_models"] == 5 and after["vitadapt_queued_images"] == 0
    assert after['vitadapt_images_total{model="pets"}'] >= 2 and after["process_resident_memory_bytes"] > 0
    client.get("/no/such/thing")
    assert counts(client)['vitadapt_refused_total{reason="not_found"}'] >= 1


# ---- explanations


@pytest.mark.parametrize("kind", list(HEATS))
def test_an_explanation_is_a_picture_or_numbers(client, kind):
    sent = client.post("/v1/pets/explain", params={"kind": kind}, files={"file": FILES["b.jpg"]})
    assert sent.status_code == 200 and sent.headers["content-type"] == "image/png", sent.text
    sheet = Image.open(io.BytesIO(sent.content))
    assert sheet.size == (2 * 448 + 12, 448) and kind in sheet.text["Description"]
    over = client.post("/v1/pets/explain", params={"kind": kind, "picture": "overlay"}, files={"file": FILES["b.jpg"]})
    assert Image.open(io.BytesIO(over.content)).size == (448, 448)
    plain = {"accept": "application/json"}
    found = client.post("/v1/pets/explain", params={"kind": kind}, files={"file": FILES["b.jpg"]}, headers=plain).json()
    assert len(found["heat"]) == 4 and all(0 <= value <= 1 for line in found["heat"] for value in line)
    answer = client.post("/v1/pets/predict", files={"file": FILES["b.jpg"]}).json()["answers"][0]
    assert found["answer"] == answer["class"] and found["probability"] == pytest.approx(answer["probability"], abs=1e-5)
    assert found["explained"] == (None if kind == "rollout" else answer["class"])


def test_a_class_can_be_asked_for(client):
    plain = {"accept": "application/json"}
    found = [
        client.post("/v1/pets/explain", params={"class": name}, files={"f": FILES["a.png"]}, headers=plain).json()
        for name in PETS
    ]
    assert [one["explained"] for one in found] == list(PETS)
    assert sum(one["explained_probability"] for one in found) == pytest.approx(1)
    wrong = client.post("/v1/pets/explain", params={"class": "cta"}, files={"f": FILES["a.png"]})
    assert wrong.status_code == 422 and "did you mean cat" in wrong.json()["error"]["message"]


# ---- the description


def test_a_client_made_of_the_description_works(client):
    """Every operation is called with what its description says, and answers as described."""
    described = client.get("/openapi.json").json()
    operations = {
        operation["operationId"]: (method, path, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }
    assert operations.keys() == {
        *("healthz", "readyz", "metrics", "list_models", "get_model", "put_model", "delete_model"),
        *("predict", "explain"),
    }
    for name in ("healthz", "readyz", "list_models", "get_model", "predict", "explain"):
        method, path, operation = operations[name]
        for kind, body in bodies(operation, described):
            sent = client.request(method, path.replace("{model}", "cars"), **body)
            assert sent.status_code == 200, (name, kind, sent.text)
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
            jsonschema.validate(sent.json(), {**schema, "components": described["components"]})
            assert name != "predict" or len(sent.json()["answers"]) == 1
    method, path, operation = operations["predict"]
    refused = client.request(method, path.replace("{model}", "cars"), json={"image": "?"})
    schema = operation["responses"][str(refused.status_code)]["content"]["application/json"]["schema"]
    jsonschema.validate(refused.json(), {**schema, "components": described["components"]})


def bodies(operation, described):
    """(content type, arguments of a request) for every body that an operation takes."""
    headers = {"accept": "application/json"}
    if "requestBody" not in operation:
        return [("none", {"headers": headers})]
    found = []
    for kind, content in operation["requestBody"]["content"].items():
        schema = content["schema"]
        if kind == "multipart/form-data":
            (name,) = schema["required"]
            found.append((kind, {"files": {name: FILES["a.png"]}, "headers": headers}))
        elif kind == "application/json":
            body = {"image": base64.b64encode(FILES["a.png"]).decode()}
            jsonschema.validate(body, schema)
            found.append((kind, {"json": body, "headers": headers}))
        else:
            assert kind == "image/*" and schema["format"] == "binary"
            found.append((kind, {"content": FILES["a.png"], "headers": {**headers, "content-type": "image/png"}}))
    return found


# ---- refusals


def header_of_png(width, height):
    """A PNG that declares so many pixels and has none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def sent_image(data, kind="image/png"):
    return {"content": data, "headers": {"content-type": kind}}


def chunked(size):
    return (b"x" * 10_000 for _ in range(size // 10_000))


REFUSED = {
    "no such model": (
        "POST",
        "/v1/petz/predict",
        sent_image(FILES["a.png"]),
        404,
        "unknown_model",
        "did you mean pets",
    ),
    "a model that cannot be": ("POST", "/v1/half/predict", sent_image(FILES["a.png"]), 404, "unknown_model", "half"),
    "a path for a name": ("GET", "/v1/models/..%2f..%2fetc", {}, 404, "not_found", ""),
    "nothing there": ("GET", "/v2", {}, 404, "not_found", ""),
    "not this way": ("PUT", "/v1/models/pets", {}, 405, "wrong_method", ""),
    "text": ("POST", "/v1/pets/predict", {"content": b"hello"}, 415, "wrong_content_type", "multipart"),
    "form without a boundary": (
        *("POST", "/v1/pets/predict", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}),
        *(422, "bad_form", "damaged"),
    ),
    "broken form": (
        "POST",
        "/v1/pets/predict",
        {"content": b"--b\r\nContent-Di", "headers": {"content-type": "multipart/form-data; boundary=b"}},
        *(422, "no_image", ""),
    ),
    "no image": ("POST", "/v1/pets/predict", {"data": {"top": "1"}, "files": {}}, 415, "wrong_content_type", ""),
    "JSON without one": ("POST", "/v1/pets/predict", {"json": {}}, 422, "no_image", ""),
    "no JSON": (
        *("POST", "/v1/pets/predict", {"content": b"{", "headers": {"content-type": "application/json"}}),
        *(422, "bad_request", "JSON"),
    ),
    "deep JSON": (
        *("POST", "/v1/pets/predict"),
        {"content": b'{"image":' + b"[" * 9000, "headers": {"content-type": "application/json"}},
        *(422, "bad_request", ""),
    ),
    "an unknown field": ("POST", "/v1/pets/predict", {"json": {"picture": "x"}}, 422, "bad_request", "picture"),
    "bad base64": ("POST", "/v1/pets/predict", {"json": {"image": "####"}}, 422, "bad_base64", "image 1"),
    "no picture": ("POST", "/v1/pets/predict", sent_image(b"hello"), 422, "bad_image", "known format"),
    "an empty one": ("POST", "/v1/pets/predict", sent_image(b""), 422, "bad_image", "empty"),
    "a truncated one": ("POST", "/v1/pets/predict", sent_image(FILES["b.jpg"][:-800]), 422, "bad_image", "truncated"),
    "a drawing": ("POST", "/v1/pets/predict", sent_image(b"<svg/>", "image/svg+xml"), 422, "bad_image", ""),
    "0 x 0": ("POST", "/v1/pets/predict", sent_image(header_of_png(0, 0)), 422, "bad_image", ""),
    "500 megapixels": (
        "POST",
        "/v1/pets/predict",
        sent_image(header_of_png(25_000, 20_000)),
        413,
        "too_large",
        "pixels",
    ),
    "a few too many pixels": (
        "POST",
        "/v1/pets/predict",
        sent_image(header_of_png(201, 200)),
        413,
        "too_large",
        "40000",
    ),
    "two bad ones of three": (
        *("POST", "/v1/pets/predict"),
        {"files": [("f", ("x.png", b"x")), ("f", ("a.png", FILES["a.png"])), ("f", ("y.png", b"y"))]},
        *(422, "bad_image", "x.png (not an image of a known format); y.png"),
    ),
    "too many": (
        *("POST", "/v1/pets/predict", {"files": [("f", FILES["dot.png"])] * 13}),
        *(413, "too_many_images", "12"),
    ),
    "far too many": (
        *("POST", "/v1/pets/predict", {"files": [("f", FILES["dot.png"])] * 90}),
        *(413, "too_many_images", "12"),
    ),
    "several to explain": (
        *("POST", "/v1/pets/explain", {"files": [("f", FILES["dot.png"])] * 2}),
        *(413, "too_many_images", "one image"),
    ),
    "too many bytes": ("POST", "/v1/pets/predict", sent_image(b"x" * 300_001), 413, "too_large", "300000 bytes"),
    "too many in pieces": ("POST", "/v1/pets/predict", sent_image(chunked(310_000)), 413, "too_large", "300000 bytes"),
    "top": ("POST", "/v1/pets/predict?top=0", sent_image(FILES["a.png"]), 422, "bad_request", "top"),
    "threshold": ("POST", "/v1/pets/predict?threshold=2", sent_image(FILES["a.png"]), 422, "bad_request", "threshold"),
    "kind": ("POST", "/v1/pets/explain?kind=magic", sent_image(FILES["a.png"]), 422, "bad_request", "kind"),
    "a field of the form": (
        *("POST", "/v1/pets/predict", {"data": {"tpo": "1"}, "files": {"f": FILES["a.png"]}}),
        *(422, "bad_request", "tpo"),
    ),
    "a long key in JSON": ("POST", "/v1/pets/predict", {"json": {"t" * 9999: 1}}, 422, "bad_request", "ttt"),
    "an upload without a token": (
        *("POST", "/v1/models/new", {"content": b"x", "headers": {"content-type": "application/octet-stream"}}),
        *(403, "no_changes", "--token"),
    ),
    "a removal without a token": ("DELETE", "/v1/models/pets", {}, 403, "no_changes", "--token"),
    "another host's name": ("GET", "/v1/models", {"headers": {"host": "evil.example"}}, 421, "unknown_host", ""),
    "another site's page": (
        *("POST", "/v1/pets/predict"),
        {"files": {"f": FILES["a.png"]}, "headers": {"origin": "https://evil.example"}},
        *(403, "other_site", ""),
    ),
    "a frame of nobody": ("GET", "/v1/models", {"headers": {"origin": "null"}}, 403, "other_site", ""),
    "a preflight": (
        "OPTIONS",
        "/v1/pets/predict",
        {"headers": {"origin": "https://evil.example"}},
        403,
        "other_site",
        "",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_one_clear_line_that_tells_nothing_of_the_machine(server, client, folder, case):
    method, path, options, status, code, words = REFUSED[case]
    sent = client.request(method, path, **options)
    assert sent.status_code == status, sent.text
    assert sent.json().keys() == {"error"} and sent.json()["error"].keys() == {"code", "message"}
    assert sent.json()["error"]["code"] == code
    message = sent.json()["error"]["message"]
    assert words in message and "\n" not in message and 5 < len(message) <= 500
    harmless(sent, folder)
    assert client.get("/healthz").status_code == 200  # and life goes on


def harmless(sent, folder):
    """No path and no trace in body or headers, and the security headers are there."""
    whole = sent.text + json.dumps(dict(sent.headers))
    for secret in (str(folder), folder.name, "/tmp", "site-packages", "Traceback", ".py", "vitadapt-serve", "uvicorn"):
        assert secret not in whole, whole
    assert not re.search(r"(?<![\w.])/(?:home|root|usr|var|work|etc)/", whole)
    assert "default-src 'none'" in sent.headers["content-security-policy"]
    assert sent.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in sent.headers


def test_the_list_of_a_folder_with_problems_is_harmless_too(client, folder):
    harmless(client.get("/v1/models"), folder)


def test_loopback_goes_by_all_its_names(server):
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:7"):
        assert httpx.get(f"{server.url}/healthz", headers={"host": host}, trust_env=False).status_code == 200


# ---- with a token


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    root = tmp_path_factory.mktemp("guarded")
    (root / "pets.safetensors").write_bytes(adapter(1, PETS))
    (root / "fitted").mkdir()
    (root / "fitted" / "adapter.safetensors").write_bytes(adapter(2, CARS))
    with running(root, token=TOKEN, max_models=4) as server, server.client() as client:
        yield root, server, client


def bearer(token=TOKEN):
    return {"authorization": f"Bearer {token}"}


def test_without_the_token_only_the_page_and_the_health_are_shown(guarded):
    _, _, client = guarded
    for path in ("/", "/assets/server.js", "/healthz", "/readyz", "/openapi.json"):
        assert client.get(path).status_code == 200, path
    wrong = [
        {},
        bearer("x"),
        bearer(TOKEN[:-1]),
        bearer(f"{TOKEN}x"),
        {b"authorization": "Bearer ü".encode()},
    ]
    wrong += [{"authorization": f"Basic {TOKEN}"}, {"authorization": TOKEN}]
    for headers in wrong:
        for method, path in (
            ("GET", "/v1/models"),
            ("GET", "/metrics"),
            ("POST", "/v1/pets/predict"),
            ("GET", "/v1/x"),
        ):
            sent = client.request(method, path, headers=headers)
            assert sent.status_code == 401 and sent.json()["error"]["code"] == "no_token", (headers, path)
            assert sent.headers["www-authenticate"].startswith("Bearer")
    assert client.get("/v1/models", headers=bearer()).status_code == 200
    described = client.get("/openapi.json").json()
    assert described["paths"]["/v1/{model}/predict"]["post"]["security"] == [{"token": []}]


def upload(client, name, data, kind="application/octet-stream"):
    return client.post(f"/v1/models/{name}", content=data, headers={**bearer(), "content-type": kind})


def test_models_come_and_go_over_http(guarded, tmp_path):
    root, server, client = guarded
    first, second = adapter(11, CARS), adapter(12, PETS, LoRA())
    sent = upload(client, "new one", first)
    assert sent.status_code == 201 and sent.json()["classes"] == list(CARS)
    assert (root / "new one.safetensors").read_bytes() == first
    (tmp_path / "a.png").write_bytes(FILES["a.png"])
    for data, status in ((second, 200), (second, 200), (first, 200)):
        sent = upload(client, "new one", data)
        assert sent.status_code == status
        answer = client.post("/v1/new one/predict", files={"f": ("a.png", FILES["a.png"])}, headers=bearer()).json()
        assert answer["version"] == sent.json()["version"]
        same(answer["answers"], expected(root, "new one", [tmp_path / "a.png"]))
    assert client.delete("/v1/models/new one", headers=bearer()).json() == {"removed": "new one"}
    assert not (root / "new one.safetensors").exists()
    assert client.get("/v1/models/new one", headers=bearer()).status_code == 404
    assert client.delete("/v1/models/new one", headers=bearer()).status_code == 404
    assert in_use(server) == {"pets", "fitted"}


def test_what_is_no_adapter_of_a_served_backbone_is_not_taken(guarded):
    root, _, client = guarded
    before = sorted(path.name for path in root.rglob("*"))
    good = adapter(13, PETS)
    for name, data, status, words in (
        ("bad", b"nonsense", 422, "completely"),
        ("bad", b"", 422, "completely"),
        ("bad", good[:-1], 422, "completely"),
        ("bad", adapter(14, PETS, backbone="random:tiny-clip"), 422, "not served here"),
        ("models", good, 422, "name"),
        (".bad", good, 422, "name"),
        ("x" * 101, good, 422, "name"),
        ("x" * 300, good, 422, "name"),
        ("字" * 90, good, 422, "name"),
        ("%2E%2E", good, 422, "name"),
        ("b%0Aad", good, 422, "name"),
        ("bad.safetensors", good, 422, "name"),
        ("fitted", good, 409, "folder"),
    ):
        sent = upload(client, name, data)
        assert sent.status_code == status and words in sent.json()["error"]["message"], sent.text
        harmless(sent, root)
    damaged = bytearray(good)
    damaged[-9] ^= 1
    assert upload(client, "bad", bytes(damaged)).status_code == 422
    assert upload(client, "bad", good, "text/plain").status_code == 415
    assert client.delete("/v1/models/fitted", headers=bearer()).status_code == 409
    assert sorted(path.name for path in root.rglob("*")) == before


def test_an_adapter_that_names_a_file_or_a_hub_as_its_backbone_reaches_neither(guarded, tmp_path):
    """Uploads decide nothing about what the server opens."""
    _, _, client = guarded
    from vitadapt.weights import sources

    asked = []
    for scheme in ("file", "hf"):
        data = adapter(15, PETS, base="0" * 32).replace(b'"random:tiny\\"', b"")
        text = data.replace(b"random:tiny", (scheme + ":///etc/pw").encode()[:11].ljust(11, b"x"))
        sent = upload(client, "bad", text)
        assert sent.status_code == 422, sent.text
        asked.append(sent.json()["error"]["message"])
    assert sources.SOURCES and all("/etc/" not in line for line in asked)


def test_only_so_many_models_are_taken(guarded):
    root, _, client = guarded
    sent = [upload(client, f"m{i}", adapter(20 + i, PETS)).status_code for i in range(4)]
    assert sent == [201, 201, 409, 409]
    for i in range(2):
        assert client.delete(f"/v1/models/m{i}", headers=bearer()).status_code == 200
    assert sorted(path.name for path in root.glob("*.safetensors")) == ["pets.safetensors"]


def test_every_method_can_be_served(tmp_path):
    """Whatever the bank cannot share is computed apart; nothing depends on a method's name."""
    (tmp_path / "x.png").write_bytes(FILES["a.png"])
    root = tmp_path / "models"
    root.mkdir()
    for seed, (name, kind) in enumerate(METHODS.items()):
        if kind.trains_head and not kind.breaks:
            with suppress(NotApplicable):  # it needs another backbone
                (root / f"{name}.safetensors").write_bytes(adapter(seed, PETS, kind()))
    with running(root) as server, server.client() as client:
        assert not server.service.repository.problems and len(server.service.repository.models) >= 8
        for name in server.service.repository.models:
            sent = client.post(f"/v1/{name}/predict", files={"f": ("x.png", FILES["a.png"])})
            same(sent.json()["answers"], expected(root, name, [tmp_path / "x.png"]))
