# SPDX-License-Identifier: Apache-2.0
"""Downloads of public weights, from a server that fails, by hand and from a folder."""

import contextlib
import hashlib
import http.server
import re
import threading

import pytest

import spectral_flax as sf
from spectral_flax.checkpoints.public import download as downloads
from spectral_flax.checkpoints.public import table as public
from spectral_flax.checkpoints.public.download import download
from spectral_flax.files import CACHE
from tests.checkpoints.small_network import SMALL, same


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(downloads.OFFLINE, raising=False)
    monkeypatch.setattr(downloads, "_pause", lambda: 0.0)
    return tmp_path / "cache"


@contextlib.contextmanager
def table_of(monkeypatch, **row):
    """One row for a narrow network, in place of the table."""
    row = public.PublicWeights(
        **dict(name="someone/small", model="resnet18", options=SMALL, source="https://x") | row
    )
    for module in ("table", "read"):
        name = f"spectral_flax.checkpoints.public.{module}.table"
        monkeypatch.setattr(name, lambda: {row.name: row})
    monkeypatch.setattr("spectral_flax.checkpoints.store.table", lambda: {row.name: row})
    yield row


def test_a_row_that_is_fetched_by_hand_says_from_where_to_where(monkeypatch, cache, weights):
    content, model = weights
    with table_of(monkeypatch, page="https://drive.example/1", file="small.pth"):
        told = f"get it from https://drive.example/1 and save it as {cache / 'small.pth'}"
        with pytest.raises(FileNotFoundError, match=re.escape(told)):
            sf.create_model("resnet18", pretrained="someone/small")
        with pytest.raises(ValueError, match=r"has no weights by default; name them: .*someone"):
            sf.create_model("resnet18", pretrained=True)
        cache.mkdir()
        (cache / "small.pth").write_bytes(content)
        assert same(sf.load("someone/small"), model)
        (cache / "small.pth").write_bytes(content[:-200])
        with pytest.raises(ValueError, match=f"cut short, remove {re.escape(str(cache))}"):
            sf.load("someone/small")


def test_a_row_of_the_hub_may_lie_in_a_folder(monkeypatch, cache, weights):
    with table_of(monkeypatch, hub="someone/small"):
        monkeypatch.setenv(downloads.OFFLINE, "1")
        folder = cache / "someone--small"
        told = f"by hand: put model.safetensors of .*someone/small in the folder {folder}"
        with pytest.raises((OSError, ImportError), match=told):
            sf.load("someone/small")
        folder.mkdir(parents=True)
        sf.save(weights[1], folder / "model.safetensors", names="torch")
        assert same(sf.load("someone/small"), weights[1])
        with pytest.raises(OSError, match=r"closest of .*--pretrained: someone/small"):
            sf.load("someone/smalls")


def test_a_model_without_public_weights_says_so():
    with pytest.raises(ValueError, match="no public weights of resnet26 are known; closest:"):
        sf.create_model("resnet26", pretrained=True)
    with pytest.raises(ValueError, match="no model 'resnet19'"):
        sf.create_model("resnet19", pretrained=True)


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as it is told: a list of what to do with each request in turn."""

    content, plan, asked = b"", [], []

    def do_GET(self):
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")
        start = int(start[1])
        Server.asked.append(start)
        step = Server.plan.pop(0) if Server.plan else "all"
        if isinstance(step, int) and step >= 400:
            self.send_error(step)
            return
        if start and start == len(Server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{start}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if step == "elsewhere":
            self.send_response(302)
            self.send_header("Location", "/there")
            self.end_headers()
            return
        ranged = start > 0 and step != "no ranges"
        body = Server.content[start if ranged else 0 :]
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if step == "half" else body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("plan", "asked"),
    [
        ([], [0]),
        (["half"], [0, 500]),  # goes on where the connection ended
        (["half", "half"], [0, 500, 750]),
        (["half", "no ranges"], [0, 500]),  # begins anew
        ([503, 429], [0, 0, 0]),
        (["elsewhere"], [0, 0]),
        ([416], [0, 0]),
    ],
    ids=str,
)
def test_a_download_is_completed_whatever_happens_to_it(host, cache, plan, asked):
    Server.content, Server.plan, Server.asked = bytes(range(250)) * 4, list(plan), []
    wanted = hashlib.sha256(Server.content).hexdigest()
    path = download(f"{host}/file.pth", "file.pth", wanted[:8])
    assert path == cache / "file.pth" and path.read_bytes() == Server.content
    assert Server.asked == asked and list(cache.iterdir()) == [path]
    download(f"{host}/file.pth", "file.pth")  # kept
    assert Server.asked == asked


@pytest.mark.parametrize(
    ("plan", "error", "told"),
    [
        ([404], FileNotFoundError, "can not be downloaded: .*404"),
        ([403], OSError, "403"),
        ([503] * 4, OSError, "503.*put it there as"),
        (["half"] * 4, OSError, "the connection ended after .* of 1000 bytes; download"),
    ],
)
def test_what_can_not_be_downloaded_is_told(host, cache, plan, error, told):
    Server.content, Server.plan = bytes(1000), list(plan)
    with pytest.raises(error, match=told):
        download(f"{host}/file.pth", "file.pth")
    assert not (cache / "file.pth").exists()


def test_a_file_that_was_complete_when_its_process_died_is_taken(host, cache):
    Server.content, Server.plan, Server.asked = bytes(range(250)) * 4, [], []
    cache.mkdir()
    (cache / "file.pth.part").write_bytes(Server.content)
    assert download(f"{host}/file.pth", "file.pth").read_bytes() == Server.content
    assert Server.asked == [1000] and list(cache.iterdir()) == [cache / "file.pth"]


def test_processes_that_want_one_file_download_it_once(host, cache):
    Server.content, Server.plan, Server.asked = bytes(range(250)) * 400, [], []
    found = []
    want = lambda: found.append(download(f"{host}/file.pth", "file.pth"))
    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Server.asked == [0] and found == [cache / "file.pth"] * 4
    assert found[0].read_bytes() == Server.content and list(cache.iterdir()) == found[:1]


def test_another_file_than_the_hash_says_is_removed(host, cache):
    Server.content, Server.plan = bytes(1000), []
    with pytest.raises(ValueError, match="SHA-256 begins 541b3e9d, expected 00000000"):
        download(f"{host}/file.pth", "file.pth", "00000000")
    assert list(cache.iterdir()) == []


def test_without_network_it_says_what_to_put_where(monkeypatch, cache):
    place = re.escape(str(cache / "file.pth"))
    monkeypatch.setenv(downloads.OFFLINE, "1")
    with pytest.raises(OSError, match=f"HF_HUB_OFFLINE is set; download .* as {place}"):
        download("http://127.0.0.1:9/file.pth", "file.pth")
    monkeypatch.setenv(downloads.OFFLINE, "0")
    with pytest.raises(OSError, match=f"refused.*put it there as {place}"):
        download("http://127.0.0.1:9/file.pth", "file.pth")


def test_a_row_of_the_web_is_a_model_with_all_that_is_known_of_it(host, monkeypatch, weights):
    Server.content, Server.plan = weights[0], []
    hash_ = hashlib.sha256(weights[0]).hexdigest()
    about = dict(url=f"{host}/small.pth", sha256=hash_, licence="MIT", default=True)
    with table_of(monkeypatch, **about, preprocessing={"resize": 40}):
        monkeypatch.setattr(
            "spectral_flax.checkpoints.store.default_row", lambda name: public.rows_of(name)[0]
        )
        model = sf.create_model("resnet18", pretrained=True)
        assert same(model, weights[1])
        assert model.record.licence == "MIT" and model.record.source == "someone/small"
        assert model.record.preprocessing.resize == 40
        fitted = sf.create_model("resnet18", pretrained="someone/small", skip="head", num_classes=7)
        assert fitted.head.out_features == 7
        with pytest.raises(sf.CheckpointError, match=r"fc\.weight"):
            sf.create_model("resnet18", pretrained="someone/small", num_classes=7)
        with pytest.raises(sf.CheckpointError, match=r"layer1\.1"):
            sf.create_model("resnet18", pretrained="someone/small", depths=(2, 1))
