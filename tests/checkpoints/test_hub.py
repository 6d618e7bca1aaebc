# SPDX-License-Identifier: Apache-2.0
import dataclasses
import http.server
import json
import pathlib
import re
import shutil
import sys
import threading
import types

import numpy as np
import pytest

import spectral_flax as sf
from spectral_flax.checkpoints.hub import push_to_hub, read_folder, read_hub, write_folder
from spectral_flax.checkpoints.safetensors import write_safetensors
from spectral_flax.checkpoints.torch.writer import write_torch
from spectral_flax.checkpoints.weights import Weights
from spectral_flax.models.record import ModelRecord

TENSORS = {"head.kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}
OURS = Weights(
    TENSORS,
    record=ModelRecord(model="resnet50_bat", options={"blocks_at": {2: (1,)}, "ratio": 0.5}),
)


def assert_ours(weights: Weights) -> None:
    assert (weights.names, weights.model, weights.options) == ("flax", OURS.model, OURS.options)
    np.testing.assert_array_equal(weights.tensors["head.kernel"], TENSORS["head.kernel"])


def test_a_folder_keeps_weights_model_and_options(tmp_path):
    write_folder(tmp_path / "model", OURS)
    assert_ours(read_folder(tmp_path / "model"))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model"] == "resnet50_bat" and config["options"]["blocks_at"] == {"2": [1]}


def test_the_configuration_beside_the_weights_decides(tmp_path):
    write_folder(tmp_path, OURS)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("0.5", "0.75"))
    assert read_folder(tmp_path).options["ratio"] == 0.75


def test_a_damaged_configuration_is_named(tmp_path):
    write_folder(tmp_path, OURS)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not the configuration"):
        read_folder(tmp_path)


def test_a_folder_with_names_of_pytorch_is_read(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", Weights(TENSORS, "torch"))
    (tmp_path / "config.json").write_text('{"architecture": "resnet50"}')
    weights = read_folder(tmp_path)
    assert (weights.names, weights.model) == ("torch", None)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "big-lama.ckpt", "best.pth"])
def test_a_folder_with_a_file_of_pytorch_is_read(name, tmp_path):
    write_torch(tmp_path / name, TENSORS)
    assert read_folder(tmp_path).names == "torch"


def test_safetensors_are_preferred_to_pickles(tmp_path):
    write_torch(tmp_path / "pytorch_model.bin", {"other": np.ones(1)})
    write_folder(tmp_path, OURS)
    assert_ours(read_folder(tmp_path))


def test_folders_without_one_file_of_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="should hold one file of weights; found: none"):
        read_folder(tmp_path)
    for name in ("a.pth", "b.pth"):
        write_torch(tmp_path / name, TENSORS)
    with pytest.raises(ValueError, match=r"found: a\.pth, b\.pth"):
        read_folder(tmp_path)


def test_weights_in_several_files_are_refused_by_name(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="splits its weights over several files"):
        read_folder(tmp_path)


def test_a_folder_needs_the_name_of_the_model(tmp_path):
    with pytest.raises(ValueError, match=r"weights\.model is None"):
        write_folder(tmp_path / "x", Weights(TENSORS))
    assert not (tmp_path / "x").exists()


@pytest.fixture
def server(tmp_path, monkeypatch) -> pathlib.Path:
    """A stand-in for huggingface_hub that keeps repositories in a local folder."""
    root = tmp_path / "server"

    class HfApi:
        def model_info(self, repo_id, revision=None, timeout=None):
            names = [path.name for path in (root / repo_id / (revision or "main")).iterdir()]
            siblings = [types.SimpleNamespace(rfilename=name) for name in names]
            return types.SimpleNamespace(siblings=siblings)

        def create_repo(self, repo_id, private, exist_ok):
            (root / repo_id / "main").mkdir(parents=True, exist_ok=exist_ok)

        def upload_folder(self, repo_id, folder_path):
            shutil.copytree(folder_path, root / repo_id / "main", dirs_exist_ok=True)

    def hf_hub_download(repo_id, filename, revision=None, etag_timeout=None):
        return str(root / repo_id / (revision or "main") / filename)

    constants = types.SimpleNamespace(HF_HUB_OFFLINE=False)
    functions = dict(HfApi=HfApi, hf_hub_download=hf_hub_download)
    module = types.SimpleNamespace(**functions, constants=constants)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)
    return root


def test_a_repository_gives_back_what_was_pushed(server):
    push_to_hub("me/model", OURS)
    assert_ours(read_hub("me/model"))
    assert_ours(read_hub("hf://me/model"))


def test_a_revision_is_chosen_after_the_at_sign(server):
    push_to_hub("me/model", OURS)
    (server / "me/model/main").rename(server / "me/model/v2")
    assert_ours(read_hub("me/model@v2"))
    assert_ours(read_hub("me/model", revision="v2"))


@pytest.mark.parametrize("name", ["model", "a/b/c", "me/mo del", "../x/y"])
def test_names_that_are_no_repositories_are_refused(name):
    with pytest.raises(ValueError, match="expected 'owner/name'"):
        read_hub(name)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", None)
    with pytest.raises(ImportError, match=r"spectral-flax\[hub\]"):
        read_hub("me/model")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("3", "not a JSON object"),
        ("[]", "not a JSON object"),
        ('{"library": "spectral_flax"}', "its 'model' is None; expected the name of a model"),
        ('{"library": "spectral_flax", "model": 3, "options": {}}', "its 'model' is 3"),
        ('{"library": "spectral_flax", "model": "a"}', "its 'options' is None; expected an object"),
        ('{"library": "spectral_flax", "model": "a", "options": []}', r"its 'options' is \[\];"),
        ('{"library": 1, "library": 2}', "names the entry 'library' twice"),
        ("[" * 100_000, "nested too deeply"),
        (" " * (1 << 21), "longer than 1048576 bytes"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_configurations_of_another_kind_are_refused_in_a_short_line(text, told, tmp_path):
    write_folder(tmp_path, OURS)
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(
        ValueError, match=rf"config\.json is not the configuration.*{told}"
    ) as caught:
        read_folder(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_repository_is_overwritten_only_if_asked(server):
    push_to_hub("me/model", OURS)
    with pytest.raises(FileExistsError, match=r"me/model has README\.md, config\.json, model"):
        push_to_hub("me/model", OURS)
    push_to_hub("me/model", OURS, overwrite=True)


def test_what_the_hub_raises_is_told_in_a_line(server):
    def lost(*_, **__):
        raise RuntimeError("no connection\nand many lines more")

    sys.modules["huggingface_hub"].hf_hub_download = lost
    push_to_hub("me/model", OURS)
    with pytest.raises(
        OSError, match=r"of me/model can not be downloaded from the Hub: no connection$"
    ):
        read_hub("me/model")


@pytest.fixture
def loopback(tmp_path, monkeypatch):
    """A server that plays the Hub for the package itself; it has the model me/model."""
    hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("huggingface_hub.constants")
    write_folder(tmp_path / "model", OURS)
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            match = re.fullmatch(r"/me/model/resolve/(main|v1)/(.+)", self.path)
            if self.path in ("/api/models/me/model", "/api/models/me/model/revision/v1"):
                names = [path.name for path in (tmp_path / "model").iterdir()]
                siblings = [{"rfilename": name} for name in names]
                self.answer(json.dumps({"id": "me/model", "siblings": siblings}).encode())
            elif match and (tmp_path / "model" / match[2]).exists():
                self.answer((tmp_path / "model" / match[2]).read_bytes(), ETag=f'"{match[2]}"')
            else:
                code = "RevisionNotFound" if "me/model" in self.path else "RepoNotFound"
                self.answer(b"{}", 404, **{"X-Error-Code": code})

        do_HEAD = do_GET

        def answer(self, body, status=200, **headers):
            self.send_response(status)
            sent = {"Content-Length": len(body), "X-Repo-Commit": "0" * 40} | headers
            for name, value in sent.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(hub.constants, name, value)
    yield types.SimpleNamespace(asked=asked, server=server, constants=hub.constants)
    server.shutdown()
    server.server_close()


def test_a_repository_is_read_once_and_then_from_the_cache(loopback, monkeypatch, caplog):
    assert_ours(read_hub("me/model"))
    asked = len(loopback.asked)
    monkeypatch.setattr(loopback.constants, "HF_HUB_OFFLINE", True)
    assert_ours(read_hub("me/model"))
    assert len(loopback.asked) == asked
    monkeypatch.setattr(loopback.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(loopback.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert_ours(read_hub("me/model"))
    assert "the Hub does not answer" in caplog.text


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("me/modle", "the Hub has no model me/modle, or it is private"),
        ("me/model@v9", "the model me/model on the Hub has no revision 'v9'"),
    ],
)
def test_what_the_hub_does_not_have_is_said_in_a_line(name, told, loopback):
    with pytest.raises(FileNotFoundError, match=told) as caught:
        sf.read_weights(name)
    assert str(caught.value).startswith("there is no file or folder") and len(loopback.asked) == 1


@pytest.mark.parametrize("offline", [True, False])
def test_without_network_and_cache_the_places_that_were_looked_in_are_told(
    offline, loopback, monkeypatch
):
    monkeypatch.setattr(loopback.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(loopback.constants, "ENDPOINT", "http://127.0.0.1:9")
    why = "HF_HUB_OFFLINE is set" if offline else "the Hub does not answer"
    with pytest.raises(OSError, match=rf"me/model is not in the cache .*cache, and {why}"):
        read_hub("me/model")


def test_a_typo_in_a_path_is_no_repository(loopback, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    for path in ("runs/fist", "runs/first/bets", "fist.pth", "runs/x.safetensors", "a/x.orbax"):
        with pytest.raises((FileNotFoundError, OSError), match=path.replace(".", r"\.")):
            sf.load(path)
    with pytest.raises(FileNotFoundError, match="in the folder runs; closest: first"):
        sf.load("runs/fist")
    assert not loopback.asked


def test_a_model_is_pushed_with_its_record_and_a_page(server):
    model = sf.create_model("resnet18", width=4, depths=(1,), num_classes=2)
    run = {"data": {"name": "image_folder_classes", "path": "/home/me"}, "steps": 3}
    model.record = dataclasses.replace(model.record, class_names=("ant", "bee"), run=run)
    sf.push_to_hub(model, "me/ants")
    record = sf.load("hf://me/ants").record
    assert record.class_names == ("ant", "bee") and record.run["data"]["path"] is None
    page = (server / "me/ants/main/README.md").read_text()
    assert 'sf.load("me/ants")' in page and "ant, bee" in page
    with pytest.raises(FileExistsError, match="overwrite=True"):
        sf.push_to_hub(model, "me/ants")


def test_an_upload_that_fails_is_told_in_a_line(loopback):
    model = sf.create_model("resnet18", width=4, depths=(1,), num_classes=2)
    with pytest.raises(ValueError, match="repository='ants'; expected 'owner/name'"):
        sf.push_to_hub(model, "ants")
    with pytest.raises(OSError, match="me/ants can not be uploaded: ") as caught:
        sf.push_to_hub(model, "me/ants")
    assert len(str(caught.value).splitlines()) == 1
