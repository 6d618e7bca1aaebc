# SPDX-License-Identifier: Apache-2.0
"""Public weights: the table, downloads from a server that fails, and each published wrapper."""

import contextlib
import dataclasses
import hashlib
import http.server
import pathlib
import pickle
import re
import threading
import zipfile

import numpy as np
import pytest

import spectral_flax as sf
from spectral_flax.checkpoints.public import download as downloads
from spectral_flax.checkpoints.public import table as public
from spectral_flax.checkpoints.public.download import download
from spectral_flax.checkpoints.store import read_weights
from spectral_flax.checkpoints.torch.reader import read_torch
from spectral_flax.checkpoints.torch.writer import write_torch
from spectral_flax.models.record import ModelRecord
from spectral_flax.models.registry import MODELS, abstract_model

ROWS = list(public.table().values())
SMALL = dict(width=8, depths=(1, 1), num_classes=3)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(downloads.CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(downloads.OFFLINE, raising=False)
    monkeypatch.setattr(downloads, "_pause", lambda: 0.0)
    return tmp_path / "cache"


# The table


def test_rows_name_models_options_places_and_licences_that_there_are():
    assert len(ROWS) >= 60 and len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        known = MODELS[row.model].options
        assert set(row.options) <= set(known), row.name
        assert set(row.preprocessing) <= public.preprocessing_fields(), row.name
        assert sum(map(bool, (row.hub, row.url, row.page))) == 1, row.name
        assert row.filename or row.hub, row.name
        assert row.source.startswith("https://") and bool(row.metric) <= bool(row.of), row.name
        assert re.fullmatch("[0-9a-f]*", row.sha256)
        record = row.record()
        assert isinstance(record, ModelRecord) and record.preprocessing is not None


def test_the_readme_counts_them():
    text = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
    assert f"names {len(ROWS)} public files of weights" in text


def test_a_model_has_one_default_which_anybody_may_use_and_programs_can_fetch():
    defaults = [row for row in ROWS if row.default]
    assert len({row.model for row in defaults}) == len(defaults) >= 15
    assert not any(row.restricted or row.page for row in defaults)
    assert {"timm/resnet50.fb_swsl_ig1b_ft_in1k"} <= {r.name for r in ROWS if r.restricted}


def test_labels_are_as_many_as_the_outputs_of_the_models_that_have_them():
    counts = {"imagenet": 1000, "kinetics400": 400, "voc": 21}
    assert {label: len(public.class_names(label)) for label in counts} == counts
    for row in {(r.model, r.labels): r for r in ROWS if r.labels}.values():
        default = MODELS[row.model].options["num_classes"].default
        assert row.options.get("num_classes", default) == counts[row.labels], row.name


WITH_OPTIONS = {(row.model, str(row.options)): row for row in ROWS if row.options}


@pytest.mark.parametrize("row", WITH_OPTIONS.values(), ids=lambda row: row.name)
def test_models_build_with_the_options_of_their_weights(row):
    narrow = dict(width=8, encoder_width=8, depths=(1, 1, 1, 1), head_features=8)
    narrow = {k: v for k, v in narrow.items() if k in MODELS[row.model].options}
    narrow |= dict(width=32) if row.model.startswith("ffc") else {}
    abstract_model(row.model, **row.options, **narrow)


def test_weights_are_listed_by_their_own_name_and_by_their_models():
    everything = sf.list_models(pretrained=True)
    assert everything == sorted(row.name for row in ROWS)
    assert sf.list_models("tsm_*", pretrained=True) == [n for n in everything if "tsm_" in n]
    assert "timm/bat_resnext26ts.ch_in1k" in sf.list_models("timm/bat*", pretrained=True)
    assert set(sf.list_models(rank=3, pretrained=True)) < set(everything)
    assert sf.list_models("resnet18") == ["resnet18"]
    with pytest.raises(ValueError, match="pretrained='yes'; expected one of False, True"):
        sf.list_models(pretrained="yes")


# Files


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


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A narrow network's file, and the network."""
    model = sf.create_model("resnet18", **SMALL)
    path = tmp_path_factory.mktemp("public") / "small.pth"
    write_torch(path, sf.save_torch(model))
    return path.read_bytes(), model


def same(a, b) -> bool:
    pairs = zip(sf.save_torch(a).items(), sf.save_torch(b).items(), strict=True)
    return all(n == m and np.array_equal(x, y) for (n, x), (m, y) in pairs)


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


# Wrappers in which weights are published


def video():
    options = dict(width=8, depths=(1, 2, 1, 1), num_classes=3, blocks_at={2: (1,)})
    return sf.create_model("i3d_resnet50_nl", **options)


CAFFE2 = [
    (r"s1\.pathway0_stem\.conv\.weight", "conv1_w"),
    (r"s1\.pathway0_stem\.bn\.", "res_conv1_bn_"),
    (r"s(\d)\.pathway0_res(\d)\.branch1\.weight", r"res\1_\2_branch1_w"),
    (r"s(\d)\.pathway0_res(\d)\.branch1_bn\.", r"res\1_\2_branch1_bn_"),
    (r"s(\d)\.pathway0_res(\d)\.branch2\.([abc])\.weight", r"res\1_\2_branch2\3_w"),
    (r"s(\d)\.pathway0_res(\d)\.branch2\.([abc])_bn\.", r"res\1_\2_branch2\3_bn_"),
    (r"s(\d)\.pathway0_nonlocal(\d)\.conv_(\w+)\.weight", r"nonlocal_conv\1_\2_\3_w"),
    (r"s(\d)\.pathway0_nonlocal(\d)\.conv_(\w+)\.bias", r"nonlocal_conv\1_\2_\3_b"),
    (r"s(\d)\.pathway0_nonlocal(\d)\.bn\.", r"nonlocal_conv\1_\2_bn_"),
    (r"head\.projection\.weight", "pred_w"),
    (r"head\.projection\.bias", "pred_b"),
    (r"bn_weight$", "bn_s"),
    (r"bn_bias$", "bn_b"),
    (r"bn_running_mean$", "bn_rm"),
    (r"bn_running_var$", "bn_riv"),
]


def blobs_of(model) -> dict:
    """The network's arrays under the names of Caffe2, with what training left there."""
    state = sf.save_torch(model, family="SlowFast")
    blobs = {}
    for name, array in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        for theirs, caffe2 in CAFFE2:
            name = re.sub(theirs, caffe2, name)
        array = array.reshape(*array.shape, 1, 1, 1) if name == "pred_w" else array
        blobs[name] = blobs[f"{name}_momentum"] = np.ascontiguousarray(array)
    return blobs | {"lr": np.ones(1, np.float32), "model_iter": np.ones(1, np.int64)}


def test_blobs_of_caffe2_are_read_by_the_names_of_pytorch(tmp_path):
    model = video()
    path = tmp_path / "I3D_NLN.pkl"
    with open(path, "wb") as file:
        pickle.dump({"blobs": blobs_of(model), "cfg": "MODEL: 1"}, file, protocol=2)
    other = video()
    sf.load_torch(other, path)
    assert same(model, other)
    assert read_torch(path).entry == "blobs"


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        (dict(blobs={"conv1_w": [1.0]}), "its blob conv1_w is list; expected arrays"),
        (dict(blobs={"conv1_w": print}), "is refused, and nothing in it was run|builtins.print"),
        (dict(blobs={"conv1_w": "text"}), "its blob conv1_w is str"),
        (dict(blobs={}, cfg={"a": 1}), "beside its blobs it has cfg, which is dict"),
        (dict(blobs={}, cfg=dataclasses.dataclass), "refused|which is"),
    ],
)
def test_blobs_that_are_no_arrays_are_refused(tmp_path, beside, told):
    path = tmp_path / "odd.pkl"
    with open(path, "wb") as file:
        pickle.dump(beside, file, protocol=2)
    with pytest.raises(ValueError, match=told) as error:
        read_torch(path)
    assert str(path) in str(error.value)


def test_a_checkpoint_within_a_zip_is_read_and_one_of_several_is_not(tmp_path, weights):
    path = tmp_path / "big.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big/config.yaml", "generator: 1")
        archive.writestr("big/models/best.ckpt", weights[0])
    found = read_weights(path)
    assert set(found.tensors) >= {"fc.weight", "layer1.0.conv1.weight"}
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("big/models/last.ckpt", weights[0])
    with pytest.raises(ValueError, match="a zip archive of several checkpoints"):
        read_weights(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("best.ckpt", bytes(1 << 20))
    with pytest.raises(ValueError, match="expands out of proportion"):
        read_weights(path)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state", "model"])
def test_published_wrappers_and_prefixes_are_opened(tmp_path, wrapper, weights):
    model = weights[1]
    state = {f"module.{name}": array for name, array in sf.save_torch(model).items()}
    path = tmp_path / "published.pyth"
    write_torch(path, {f"{wrapper}.{n}": a for n, a in state.items()})
    other = sf.create_model("resnet18", **SMALL)
    sf.load_torch(other, {wrapper: state, "epoch": 3})
    assert same(model, other)


def test_a_file_of_the_right_family_and_another_variant_is_told(weights):
    state = sf.save_torch(video(), family="SlowFast")
    plain = sf.create_model("i3d_resnet50", width=8, depths=(1, 2, 1, 1), num_classes=3)
    with pytest.raises(sf.CheckpointError, match="nonlocal"):
        sf.load_torch(plain, state)
