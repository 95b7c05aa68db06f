"""Downloads, from a server on this machine: resumed, checked, refused offline, and readable afterwards."""

from __future__ import annotations

import hashlib
import inspect
import shutil
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torchvision.datasets
from elevater_cases import add_member, make, png, write_shards
from torchvision.datasets import DTD
from typer.testing import CliRunner

from vitadapt.cli.main import app
from vitadapt.data import open_dataset
from vitadapt.data.datasets import catalog, resolve
from vitadapt.data.download.datasets import fetch, fetch_missing
from vitadapt.data.download.files import download
from vitadapt.utils.errors import ConfigError, DataError, UnknownName

PREFIX = "/datasets/clip-benchmark/wds_mnist/resolve/main/"


class Hub(ThreadingHTTPServer):
    """Serves a folder as the hub does: by way of a redirect that states the checksum of large files."""

    folder: Path
    requests: list[tuple[str, str | None]]
    lie = False


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        name = self.path.removeprefix(PREFIX).removeprefix("/stored/")
        path = self.server.folder / name
        if not path.is_file():
            self.send_error(404)
        elif self.path.startswith(PREFIX):
            self.send_response(302)
            self.send_header("Location", f"/stored/{name}")
            digest = hashlib.sha256(b"other" if self.server.lie else path.read_bytes()).hexdigest()
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.end_headers()
        else:
            self.send_part(path.read_bytes())

    def send_part(self, data: bytes) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start >= len(data) and start:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    server.requests = []
    server.folder = write_shards(tmp_path / "served", make("mnist"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_was_fetched_is_what_was_served_and_is_not_fetched_twice(hub: Hub, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    place = fetch("mnist", tmp_path / "root", lambda *step: seen.append(step), "hub")
    assert {p.relative_to(place): p.read_bytes() for p in place.rglob("*") if p.is_file() and p.suffix != ".sum"} == {
        p.relative_to(hub.folder): p.read_bytes() for p in hub.folder.rglob("*") if p.is_file()
    }
    assert ("train/0.tar", *[(hub.folder / "train/0.tar").stat().st_size] * 2) in seen
    assert len(open_dataset("mnist", tmp_path / "root").splits["test"]) == 10
    hub.requests.clear()
    fetch("mnist", tmp_path / "root", source="hub")
    assert hub.requests == []


def test_an_interrupted_download_goes_on(hub: Hub, tmp_path: Path) -> None:
    data = (hub.folder / "train/0.tar").read_bytes()
    part = tmp_path / "root/wds_mnist/train/0.tar.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:1000])
    fetch("mnist", tmp_path / "root", source="hub")
    assert part.with_suffix("").read_bytes() == data and not part.exists()
    assert ("/stored/train/0.tar", "bytes=1000-") in hub.requests


@pytest.mark.parametrize("name", ["train/0.tar", "test/0.tar", "classnames.txt"])
def test_damage_after_the_arrival_is_named_and_mended_by_fetching_again(name: str, hub: Hub, tmp_path: Path) -> None:
    place = fetch("mnist", tmp_path / "root", source="hub")
    whole = (place / name).read_bytes()
    for at in (0, len(whole) // 2, len(whole) - 1):
        (place / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DataError, match=rf"{name} is not what was fetched .* vitadapt data fetch mnist"):
            open_dataset("mnist", tmp_path / "root")
        fetch("mnist", tmp_path / "root", source="hub")
        assert (place / name).read_bytes() == whole
        assert len(open_dataset("mnist", tmp_path / "root").splits["test"]) == 10
    (place / f"{name}.sum").write_bytes(b"rubbish")  # counts as none
    assert len(open_dataset("mnist", tmp_path / "root").splits["test"]) == 10


@pytest.mark.parametrize("content", ["all", "damaged"])
def test_a_part_is_checked_before_it_counts(content: str, hub: Hub, tmp_path: Path) -> None:
    data = (hub.folder / "train/0.tar").read_bytes()
    part = tmp_path / "root/wds_mnist/train/0.tar.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(data if content == "all" else b"x" * 1000)
    if content == "damaged":
        with pytest.raises(DataError, match=r"0\.tar: what arrived is damaged"):
            fetch("mnist", tmp_path / "root", source="hub")
    fetch("mnist", tmp_path / "root", source="hub")
    assert part.with_suffix("").read_bytes() == data


def test_a_wrong_checksum_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.lie = True
    with pytest.raises(DataError, match="damaged"):
        fetch("mnist", tmp_path / "root", source="hub")
    assert not list((tmp_path / "root").rglob("*.txt"))


def test_what_the_server_lacks_is_one_line(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "test/1.tar").unlink()
    with pytest.raises(DataError, match=r"test/1\.tar cannot be fetched \(Not Found\)") as error:
        fetch("mnist", tmp_path / "root", source="hub")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["auto", "torchvision", "hub"])
def test_no_network_when_it_is_forbidden(
    source: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        fetch("mnist", tmp_path / "root", source=source)
    assert hub.requests == [] and not (tmp_path / "root").exists()


def test_opening_never_touches_the_network(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="was not found"):
        open_dataset("mnist", tmp_path / "root")
    assert hub.requests == []


def test_only_what_is_missing_is_fetched(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    (tmp_path / "dtd").mkdir()
    monkeypatch.chdir(tmp_path)
    assert fetch_missing(["digits", "./mnist", str(tmp_path), "a.csv"], root) == [] == hub.requests
    fetch("mnist", root, source="hub")
    hub.requests.clear()
    assert fetch_missing(["mnist", "digits"], root) == [] == hub.requests
    (root / "wds_mnist/test/1.tar").unlink()
    with pytest.raises(DataError, match=r"1\.tar is missing, 2 shards are expected; fetch the rest: .*--download"):
        open_dataset("mnist", root)
    assert hub.requests == []
    assert fetch_missing(["mnist"], root) == [root / "wds_mnist"]
    assert [path for path, _ in hub.requests] == [f"{PREFIX}test/1.tar", "/stored/test/1.tar"]
    assert len(open_dataset("mnist", root).splits["test"]) == 10


def test_a_place_is_needed_only_when_something_is_missing(hub: Hub) -> None:
    assert fetch_missing(["digits"], None) == []
    with pytest.raises(ConfigError, match="eurosat, dtd must be fetched; say where to: --data-root"):
        fetch_missing(["digits", "eurosat", "dtd", "eurosat"], None)
    assert hub.requests == []


def test_a_run_fetches_its_data_only_when_told_to(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(catalog()["mnist"]), "torchvision", {})  # the copy of the hub is what this server has
    arguments = ["run", "-d", "mnist", "-b", "random:tiny", "-m", "linear-probe", "--shots", "1", "--no-cache"]
    arguments += ["--recipe", "epochs=1", "--data-root", str(tmp_path / "root"), "--out", str(tmp_path / "runs")]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1 and "vitadapt data fetch mnist" in refused.output and "--download" in refused.output
    assert hub.requests == []
    done = CliRunner().invoke(app, [*arguments, "--download"])
    assert done.exit_code == 0, done.output
    assert len(open_dataset("mnist", tmp_path / "root").splits["train"]) == 10
    shutil.rmtree(tmp_path / "root")
    hub.requests.clear()
    again = CliRunner().invoke(app, [*arguments, "--download"])
    assert again.exit_code == 0 and hub.requests == []  # recorded cells need no data


def test_what_cannot_be_fetched_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(DataError, match="hateful-memes cannot be fetched; get it so: a copy obtained under"):
        fetch("hateful-memes", tmp_path)
    with pytest.raises(ConfigError, match="unknown source"):
        fetch("mnist", tmp_path, source="kaggle")
    with pytest.raises(UnknownName, match="did you mean mnist"):
        fetch("mnits", tmp_path)


def test_torchvision_downloads_where_the_reader_looks(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = hub.folder / "dtd.tar.gz"
    write_dtd(archive)
    monkeypatch.setattr(DTD, "_URL", f"http://127.0.0.1:{hub.server_port}/stored/dtd.tar.gz")
    monkeypatch.setattr(DTD, "_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    fetch("dtd", tmp_path / "root", source="torchvision")
    assert len(open_dataset("dtd", tmp_path / "root").splits["train"]) == 47
    monkeypatch.setattr(DTD, "_MD5", "0" * 32)
    with pytest.raises(DataError, match=r"dtd cannot be fetched by torchvision \(.*\); try --from hub"):
        fetch("dtd", tmp_path / "other", source="torchvision")


def write_dtd(path: Path) -> None:
    names = resolve("dtd").classes  # type: ignore[union-attr]
    with tarfile.open(path, "w:gz") as archive:
        for place, split in enumerate(("train", "val", "test")):
            lines = [f"{name}/{name}_{place}.jpg" for name in names]
            add_member(archive, f"dtd/labels/{split}1.txt", "\n".join(lines).encode())
            for number, line in enumerate(lines):
                add_member(archive, f"dtd/images/{line}", png(number))


def test_torchvision_knows_the_classes_that_the_catalog_names() -> None:
    for row in catalog().values():
        if row.torchvision:
            parameters = inspect.signature(getattr(torchvision.datasets, row.torchvision["name"])).parameters
            for arguments in row.torchvision.get("calls", ({},)):
                assert {"root", "download", *arguments} <= parameters.keys()


def test_a_local_copy_counts_as_a_url(tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(b"0123456789")
    assert download(source.as_uri(), tmp_path / "deep" / "copy.bin").read_bytes() == b"0123456789"
    with pytest.raises(DataError, match="cannot be fetched"):
        download((tmp_path / "absent").as_uri(), tmp_path / "absent-copy")
