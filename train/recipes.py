# SPDX-License-Identifier: Apache-2.0
"""Variants of published recipes: modern, finetuned, and small enough for a laptop."""

import dataclasses
from typing import Any

from spectral_flax.models.registry import get_model
from train.config import Config, Data, Pretrained, Schedule


def modern(config: Config) -> Config:
    """Return a modern recipe: cosine, label smoothing, mixup and CutMix, EMA, bfloat16.

    Wightman et al., "ResNet strikes back", 2021, names the ingredients; this mild mix of them, for
    the same number of epochs, is our choice.
    """
    return dataclasses.replace(
        config,
        task_options=dict(label_smoothing=0.1, mixup=0.2, cutmix=1.0),
        ema_decay=0.9999,
        dtype="bfloat16",
        batch_size=1024,
        optimizer=dataclasses.replace(
            config.optimizer, nesterov=True, weight_decay=5e-5, decay="kernels"
        ),
        schedule=Schedule(name="cosine", warmup=5 / 90),
        data=dataclasses.replace(config.data, rand_augment=2, magnitude=7.0),
        eval_every=1251 * 5,
        save_every=1251,
    )


def segments(config: Config, weights: str, count: int = 3) -> Config:
    """Return the finetuning of temporal segments: a video is ``count`` clips, whose logits average.

    Wang et al., ECCV 2016. That the talk's daggered rows were finetuned so is published; for how
    long and at which rates is not, and is our choice here.
    """
    return dataclasses.replace(
        config,
        epochs=20,
        pretrained=Pretrained(weights=weights),
        data=dataclasses.replace(config.data, segments=count),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=0.001),
        schedule=Schedule(name="step", warmup=0.0, drop_at=(0.5, 0.8)),
    )


def smoke(config: Config, **options: Any) -> Config:
    """Return the same network, narrow and shallow, on digits.

    Images are handwritten digits, videos are clips of them that move, where the label names
    the digit and the direction. ``options`` of the model add to and override the recipe's.
    """
    video = config.data.name == "video_list"
    small = dict(width=16, input_size=(8, 32, 32), dropout=0.0) if video else dict(width=32)
    known = get_model(config.model).options
    small = {k: v for k, v in (small | dict(depths=(1, 1, 1))).items() if k in known}
    common = dict(
        options=config.options | small | options,
        pretrained=Pretrained(),
        batch_size=32,
        steps=None,
        schedule=Schedule(name="cosine", warmup=0.1),
        task_options=dict(mixup=0.1) if config.task_options.get("mixup") else {},
        ema_decay=config.ema_decay and 0.98,
        dtype=config.dtype,
        log_every=25,
        eval_every=None,
        save_every=250,
        best=None,
    )
    optimizer = dataclasses.replace(config.optimizer, learning_rate=0.1, reference_batch=32)
    data = Data(name="moving_digits" if video else "mnist5k", size=(32, 32) if video else None)
    epochs = 8.0 if video else 6.0
    return dataclasses.replace(config, **common, epochs=epochs, optimizer=optimizer, data=data)
