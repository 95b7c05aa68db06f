"""Any request gets an answer: a right one, or a refusal as JSON without a path or a trace; and the server lives on."""

from __future__ import annotations

import base64
import json
import random

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mutate import mutate
from pictures import image_seeds
from server_cases import PETS, adapter, picture, running

LAWFUL = {200, 201, 400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 422, 431, 501, 503}
PATHS = [
    "/v1/pets/predict",
    "/v1/pets/features",
    "/v1/models/pets",
    "/v1/models",
    "/v1/%2e%2e/predict",
    "/",
    "/metrics",
]
KINDS = [
    "image/png",
    "image/*",
    "application/json",
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "",
    "a/b",
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "pets.safetensors").write_bytes(adapter(1, PETS))
    with running(folder) as server:
        yield server, str(folder)


def bodies() -> tuple[bytes, ...]:
    encoded = json.dumps({"images": [base64.b64encode(picture()).decode()]}).encode()
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + picture() + b"\r\n--x--\r\n"
    )
    return (picture(), encoded, form, *image_seeds().values())


@settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["POST", "POST", "POST", "GET", "DELETE", "PUT", "HEAD", "BREW"]),
    path=st.one_of(
        st.sampled_from(PATHS), st.text(st.characters(codec="ascii", categories=["L", "N", "P"])).map("/".__add__)
    ),
    query=st.one_of(
        st.just(""), st.sampled_from(["?top=0", "?top=1e9", "?threshold=nan", "?top=%00", "?x=" + "y" * 9000])
    ),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32),
)
@example("POST", "/v1/pets/predict", "", "application/json", -1)
@example("POST", "/v1/pets/predict", "", "image/png", -1)
def test_any_request_is_answered(served, method, path, query, kind, seed):
    server, folder = served
    rng = random.Random(seed)
    whole = bodies()
    body = mutate(rng.choice(whole), rng, whole) if seed >= 0 else whole[int(kind == "application/json")]
    try:
        url = httpx.URL(server.url + path + query)
    except httpx.InvalidURL:
        return
    with server.client() as client:
        answer = client.request(method, url, content=body, headers={"content-type": kind} if kind else {})
        assert client.get("/healthz").status_code == 200
    assert answer.status_code in LAWFUL, (answer.status_code, answer.text[:300])
    for secret in ("Traceback", folder, "site-packages", ".py"):
        assert secret not in answer.text or path in ("/", "/metrics")
    if answer.status_code >= 400 and method != "HEAD":
        assert answer.headers["content-type"].startswith("application/json") and answer.json()
    if seed == -1:
        assert answer.status_code == 200, answer.text
