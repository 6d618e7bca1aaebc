"""Systems that the talk compares its own with, on Kinetics-400: a variant for each.

| variant | published top-1 | frames | recipe |
| --- | --- | --- | --- |
| tsm_resnet50, tsm_resnet50_nl | 74.1, 75.6 | 8 | mit-han-lab/temporal-shift-module: 50 epochs |
| tsn_resnet50 | 68.8, one clip | 8 of equal parts | the same |
| artnet_resnet18 | 69.2 | 16 | wanglimin/ARTNet: 250 000 steps from random weights |
| glore_resnet50_lite | 75.1 | 8 | ours |
| octave_i3d_resnet50 | 74.6 | 8 | ours; no code was published |
| i3d_resnet50_a2 | 74.6, in a network that is not published | 8 | ours |
| r2plus1d_resnet34 | 72.0 | 32 | ours, from random weights |
| r2plus1d_resnet18, r3d_resnet18 | 57.5, 63.2 | 16 | ours, from random weights |
| s3d, i3d_inception | 72.2, 71.1 | 64 | ours, from random weights |

"Ours" is that of the networks of configs/kinetics.py. Training of TSM, TSN and A2 begins from an
image classifier's published file, RESNET50.pth in the folder of the run, inflated.
NAME_smoke, narrow and shallow, trains on moving digits.
Here: Kinetics was not run; of the smoke variants see docs/guides/training.md.
Run: python -m train configs/kinetics_compared.py:tsm_resnet50 --data.path FOLDER
"""

import dataclasses

from configs.kinetics import base, recipe
from train.config import Config, Pretrained, Schedule
from train.recipes import smoke


def from_random_weights(model: str, frames: int, side: int = 112, stride: int = 1) -> Config:
    """Return the recipe of a network that no image classifier can start."""
    data = dataclasses.replace(base.data, frames=frames, size=(side, side), stride=stride)
    return dataclasses.replace(base, model=model, data=data, pretrained=Pretrained())


def as_tsm(config: Config) -> Config:
    """Return the recipe of temporal shift networks."""
    optimizer = dataclasses.replace(
        config.optimizer, learning_rate=0.02, reference_batch=128, bias_factor=2.0
    )
    schedule = Schedule(name="step", warmup=0.0, drop_at=(0.4, 0.8))
    about = dict(epochs=50, batch_size=128, optimizer=optimizer, schedule=schedule)
    return dataclasses.replace(config, **about)


def as_segments(config: Config) -> Config:
    """Return the recipe with one frame of each equal part of the video."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, sampling="uniform"))


def as_artnet(config: Config) -> Config:
    """Return the recipe of appearance-and-relation networks, on four devices."""
    optimizer = dataclasses.replace(
        config.optimizer,
        learning_rate=0.1,
        reference_batch=112,
        weight_decay=5e-4,
        bias_factor=1.0,
    )
    schedule = Schedule(name="step", warmup=0.0, drop_at=(0.28, 0.56, 0.72, 0.88))
    about = dict(steps=250_000, batch_size=112)
    return dataclasses.replace(config, optimizer=optimizer, schedule=schedule, **about)


published = {
    "tsm_resnet50": as_tsm(recipe("tsm_resnet50", "resnet50")),
    "tsm_resnet50_nl": as_tsm(recipe("tsm_resnet50_nl", "resnet50", "inserted")),
    "tsn_resnet50": as_segments(as_tsm(recipe("tsn_resnet50", "resnet50"))),
    "artnet_resnet18": as_artnet(from_random_weights("artnet_resnet18", frames=16)),
    "glore_resnet50_lite": from_random_weights("glore_resnet50_lite", 8, side=224, stride=8),
    "octave_i3d_resnet50": from_random_weights("octave_i3d_resnet50", 8, side=224, stride=8),
    "i3d_resnet50_a2": recipe("i3d_resnet50_a2", "resnet50", "inserted"),
    "r2plus1d_resnet34": from_random_weights("r2plus1d_resnet34", frames=32),
    "r2plus1d_resnet18": from_random_weights("r2plus1d_resnet18", frames=16),
    "r3d_resnet18": from_random_weights("r3d_resnet18", frames=16),
    "s3d": from_random_weights("s3d", frames=64, side=224),
    "i3d_inception": from_random_weights("i3d_inception", frames=64, side=224),
}


def small(name: str) -> Config:
    """Return the laptop-sized variant; a block stands where its maps are still 7 and 4 wide."""
    with_block = name.endswith(("_nl", "_a2", "_lite"))
    return smoke(published[name], **({"blocks_at": {1: (0,), 2: (0,)}} if with_block else {}))


variants = {**published, **{f"{name}_smoke": small(name) for name in published}}
config = published["tsm_resnet50"]
