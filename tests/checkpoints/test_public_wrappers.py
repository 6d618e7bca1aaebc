# SPDX-License-Identifier: Apache-2.0
"""Wrappers in which weights are published: blobs of Caffe2, zip archives, prefixes."""

import dataclasses
import pickle
import re
import zipfile

import numpy as np
import pytest

import spectral_flax as sf
from spectral_flax.checkpoints.store import read_weights
from spectral_flax.checkpoints.torch.reader import read_torch
from spectral_flax.checkpoints.torch.writer import write_torch
from tests.checkpoints.small_network import SMALL, same


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


@pytest.mark.parametrize(
    ("name", "conv"), [("tsn_resnet50", "conv1.weight"), ("tsm_resnet50", "conv1.net.weight")]
)
def test_networks_of_single_frames_are_published_as_those_of_images(name, conv):
    models = [sf.create_model(name, width=8, depths=(1, 1), num_classes=3) for _ in range(2)]
    state = sf.save_torch(models[0], family="TSM")
    assert state[f"base_model.layer1.0.{conv}"].ndim == 4
    sf.load_torch(models[1], state)
    assert same(*models)


def test_networks_that_convolve_over_time_have_no_names_of_single_frames():
    with pytest.raises(ValueError, match="family='TSM'"):
        sf.save_torch(video(), family="TSM")
