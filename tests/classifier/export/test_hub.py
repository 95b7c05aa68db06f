"""`vitadapt push` to a small hub of our own: the real client sends, and what arrives is what lies in the folder."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from export_cases import model_folder, typed

from vitadapt.classifier.export.hub import prepare, push
from vitadapt.methods import LoRA
from vitadapt.utils.errors import StorageError

hub_client = pytest.importorskip("huggingface_hub")
pytest.importorskip("huggingface_hub.constants")


class Hub(ThreadingHTTPServer):
    """Repositories, and the files that were committed to them."""

    made: dict[str, bool]  # name -> private?
    files: dict[str, bytes]
    refusal = 0  # a status that every request is answered with


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.answer({"id": "me/model"}, self.server.refusal or 200)

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        place = f"http://127.0.0.1:{self.server.server_port}"
        if self.server.refusal:
            self.answer({"error": "you may not"}, self.server.refusal)
        elif self.path == "/api/repos/create":
            asked = json.loads(sent)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.server.made[name] = asked.get("visibility", asked.get("private")) in ("private", True)
            self.answer({"url": f"{place}/{name}", "name": name})
        elif "/preupload/" in self.path:
            asked = [file["path"] for file in json.loads(sent)["files"]]
            self.answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in asked]})
        elif "/commit/" in self.path:
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"success": True, "commitUrl": f"{place}/me/model/commit/{'0' * 40}", "commitOid": "0" * 40})
        else:  # asks whether the head of the model card is valid
            self.answer({"errors": [], "warnings": []})

    def answer(self, plain: object, status: int = 200) -> None:
        body = json.dumps(plain).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    server.made, server.files = {}, {}
    monkeypatch.setattr(hub_client.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(hub_client.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_folder_arrives_whole_and_private(hub: Hub, tmp_path: Path) -> None:
    model = model_folder(tmp_path / "mine", LoRA())
    (model / ".secret").write_text("token", "utf-8")
    output = typed("push", model, "me/model")
    assert hub.made in ({"me/model": True}, {"model": True})
    assert hub.files == {path.name: path.read_bytes() for path in model.iterdir() if path.name != ".secret"}
    assert "me/model" in output


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_told_with_the_remedy_and_nothing_arrives(hub: Hub, tmp_path: Path, status: int) -> None:
    upload = prepare(model_folder(tmp_path / "mine", LoRA()), "me/model")
    hub.refusal = status
    with pytest.raises(StorageError, match=r"could not push to me/model: .*; log in with 'hf auth login'"):
        push(upload)
    assert hub.files == {}
