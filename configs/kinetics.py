"""Classifiers of videos on Kinetics-400, 8 frames, 100 epochs, a variant for each.

| variant | published top-1 | with segments |
| --- | --- | --- |
| c2d_resnet50, i3d_resnet50 | 71.9, 72.6 | |
| c2d_resnet50_nl, i3d_resnet50_nl | 73.8, 73.5 | |
| c2d_resnet50_bat, i3d_resnet50_bat | 74.5, 74.8 | |
| c2d_resnet50_bat3d | 75.2 | 75.9 |
| c2d_resnet50_srl_fft, spectra of frames, convolved over time | 71.9 (from a base of 70.5) | |
| ffc_c2d_resnet50, ffc_c2d_resnet50_nl | 73.5, 74.9 | |
| ffc_i3d_resnet50_nl | 75.1 | 76.1 |

All from the talk, Tables 1 and 8 and that of FFC; ten clips times three crops. Training begins from
an image classifier's published file, inflated: RESNET50.pth for resnet50 and so on, in the folder
of the run or given by --pretrained.weights. NAME_segments is the finetuning on three segments, from
the finished run; NAME_smoke, narrow and shallow, trains on moving digits.
Here: Kinetics was not run; of the smoke variants see docs/guides/training.md.
Run: python -m train configs/kinetics.py:c2d_resnet50_bat3d --data.path FOLDER
Test: python -m train.evaluate --workdir runs/kinetics_c2d_resnet50_bat3d --data.views multi
  --data.resize 256 --data.test-size 256 256
"""

import dataclasses

from train.config import Config, Data, Optimizer, Pretrained, Schedule
from train.recipes import segments, smoke

# BA-Transform/BAT-Video-Classification: biases learn twice as fast; neither they nor norms decay.
base = Config(
    epochs=100,
    batch_size=64,
    data=Data(
        name="video_list",
        path="kinetics400",
        size=(224, 224),
        frames=8,
        stride=8,
        crop="multi_scale",
        workers=8,
    ),
    optimizer=Optimizer(
        name="sgd",
        learning_rate=0.01,
        reference_batch=64,
        momentum=0.9,
        weight_decay=1e-4,
        decay="kernels",
        bias_factor=2.0,
        clip_norm=20.0,
    ),
    schedule=Schedule(name="step", warmup=0.0, drop_at=(0.4, 0.8)),
    eval_batch_size=64,
    log_every=100,
    eval_every=18_750,
    save_every=3_750,
    best="accuracy",
)


def recipe(model: str, image_model: str, *skip: str, image_options=None, **options) -> Config:
    """Return the published recipe: ``model`` from the published file of ``image_model``.

    ``skip`` names the parts besides the head that the image model does not have.
    """
    start = Pretrained(
        weights=f"{image_model}.pth",
        inflate=image_model,
        inflate_options=image_options or {},
        skip=("head", *skip),
    )
    return dataclasses.replace(base, model=model, options=options, pretrained=start)


# Video networks have eight groups in bilinear attention; published image files four or eight.
groups = {"block_options": {"groups": 8}}
no_lfu = {"ratio": 0.25, "lfu": False}
over_time = {"block_options": {"temporal_kernel": 3}}  # of the spectra of frames
published = {
    "c2d_resnet50": recipe("c2d_resnet50", "resnet50"),
    "i3d_resnet50": recipe("i3d_resnet50", "resnet50"),
    "c2d_resnet50_nl": recipe("c2d_resnet50_nl", "resnet50", "inserted"),
    "i3d_resnet50_nl": recipe("i3d_resnet50_nl", "resnet50", "inserted"),
    "c2d_resnet50_bat": recipe("c2d_resnet50_bat", "resnet50_bat", image_options=groups),
    "i3d_resnet50_bat": recipe("i3d_resnet50_bat", "resnet50_bat", image_options=groups),
    "c2d_resnet50_bat3d": recipe(
        "c2d_resnet50_bat3d",
        "resnet50_bat",
        "stage?.*.transform.frames",
        image_options=groups,
    ),
    "c2d_resnet50_srl_fft": recipe("c2d_resnet50_srl_fft", "resnet50", "inserted", **over_time),
    "ffc_c2d_resnet50": recipe("ffc_c2d_resnet50", "ffc_resnet50", image_options=no_lfu),
    "ffc_c2d_resnet50_nl": recipe(
        "ffc_c2d_resnet50_nl", "ffc_resnet50", "inserted", image_options=no_lfu
    ),
    "ffc_i3d_resnet50_nl": recipe(
        "ffc_i3d_resnet50_nl", "ffc_resnet50", "inserted", image_options=no_lfu
    ),
}


def small(name: str) -> Config:
    """Return the laptop-sized variant, with blocks where its maps are still 7 and 4 wide.

    In a short run from random weights two blocks need help to find out that order matters. The
    spectral one is symmetric in time at first; here its kernels are random. Bilinear attention
    over space starts out as the mean of all positions; here it attends to frames alone.
    """
    if name.endswith("resnet50"):
        return smoke(published[name])
    options = {
        "c2d_resnet50_srl_fft": {"temporal_kernel": 3, "bottleneck": 32, "gate": False},
        "c2d_resnet50_bat3d": {"grid": 1},
    }.get(name)
    options = {} if options is None else {"block_options": options}
    return smoke(published[name], blocks_at={1: (0,), 2: (0,)}, **options)


finetuned = ("c2d_resnet50_bat3d", "ffc_i3d_resnet50_nl")
variants = {
    **published,
    **{
        f"{name}_segments": segments(published[name], f"runs/kinetics_{name}/best")
        for name in finetuned
    },
    **{f"{name}_smoke": small(name) for name in published},
}
config = published["c2d_resnet50_bat3d"]
