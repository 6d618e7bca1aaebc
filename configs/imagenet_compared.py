"""Systems that ours are compared with, and spectral networks since, on ImageNet-1k.

| variant | published top-1 | recipe |
| --- | --- | --- |
| octave_resnet50, half the channels of low frequency | 77.64 | octconv.pytorch: 120 epochs |
| resnet50_dcn, the last stage deformable | none found | that of configs/imagenet.py |
| googlenet, with normalisation and without its auxiliary heads | 69.8, with them | the same |
| gfnet_tiny, gfnet_small | 74.6, 80.0 | ours, after those of transformers: 300 epochs |

NAME_smoke, narrow and shallow, trains on digits.
Here: ImageNet was not run; of the smoke variants see docs/guides/training.md.
Run: python -m train configs/imagenet_compared.py:octave_resnet50 --data.path TFDS-FOLDER
"""

import dataclasses

from configs.imagenet import base, recipe
from train.config import Config, Optimizer, Schedule
from train.recipes import smoke


def cosine(config: Config, epochs: float) -> Config:
    """Return the recipe with a cosine schedule in place of steps."""
    schedule = Schedule(name="cosine", warmup=5 / epochs)
    return dataclasses.replace(config, epochs=epochs, schedule=schedule)


def as_transformer(model: str) -> Config:
    """Return our recipe of networks of patches."""
    optimizer = Optimizer(name="adamw", learning_rate=1e-3, weight_decay=0.05, decay="kernels")
    return cosine(
        dataclasses.replace(
            base,
            model=model,
            batch_size=1024,
            optimizer=dataclasses.replace(optimizer, reference_batch=1024, clip_norm=1.0),
            task_options=dict(label_smoothing=0.1, mixup=0.8, cutmix=1.0),
            data=dataclasses.replace(base.data, rand_augment=2, magnitude=9.0, erase=0.25),
        ),
        epochs=300.0,
    )


published = {
    "octave_resnet50": cosine(recipe("octave_resnet50", ratio=0.5), epochs=120.0),
    "resnet50_dcn": recipe("resnet50_dcn"),
    "googlenet": recipe("googlenet"),
    "gfnet_tiny": as_transformer("gfnet_tiny"),
    "gfnet_small": as_transformer("gfnet_small"),
}
# Digits are 28 pixels wide: octaves need even maps, patches a divisor.
PATCHES = dict(input_size=(28, 28), patch=4, depth=2)
SMALL = {"octave_resnet50": dict(stem="small"), "gfnet_tiny": PATCHES, "gfnet_small": PATCHES}


def small(name: str) -> Config:
    """Return the laptop-sized variant; networks of patches keep their optimiser's rate."""
    config = smoke(published[name], **SMALL.get(name, {}))
    if not name.startswith("gfnet"):
        return config
    optimizer = dataclasses.replace(config.optimizer, learning_rate=2e-3)
    return dataclasses.replace(config, optimizer=optimizer)


variants = {**published, **{f"{name}_smoke": small(name) for name in published}}
config = published["octave_resnet50"]
