"""Classifiers of images on ImageNet-1k, 90 epochs, a variant for each.

| variant | published top-1 | source |
| --- | --- | --- |
| resnet50 | 76.3 | pkumivision/FFC |
| ffc_resnet50, ratio 1/4 | 77.6 | pkumivision/FFC |
| ffc_resnet50_lfu, with local Fourier units too | 77.8 | pkumivision/FFC |
| resnet50_nl, five non-local blocks | 77.5 | the talk, Table 5 |
| resnet50_bat, five bilinear attentional blocks | 78.3 | BA-Transform/BAT-Image-Classification |
| resnet18_bat, two of them | 71.3 | the talk, Table 5 |

Each has a NAME_modern and a NAME_smoke, which is narrow and shallow and trains on digits.
Here: ImageNet was not run; of the smoke variants see docs/guides/training.md.
Run: python -m train configs/imagenet.py:ffc_resnet50_lfu --data.path TFDS-FOLDER
"""

import dataclasses

from train.config import Config, Data, Optimizer, Schedule
from train.recipes import modern, smoke

EPOCHS = 90

# The scripts of FFC (Chi et al., NeurIPS 2020) and of BAT (CVPR 2020) are the same. Everything
# decays, norms and biases too.
base = Config(
    epochs=EPOCHS,
    batch_size=256,
    data=Data(name="imagenet2012", size=(224, 224), workers=8),
    optimizer=Optimizer(name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Schedule(name="step", warmup=5 / EPOCHS, drop_at=(30 / 90, 60 / 90, 80 / 90)),
    log_every=100,
    eval_every=5000,
    save_every=2500,
    best="accuracy",
)


def recipe(model: str, **options) -> Config:
    """Return the published recipe for a model."""
    return dataclasses.replace(base, model=model, options=options)


published = {
    "resnet50": recipe("resnet50"),
    "ffc_resnet50": recipe("ffc_resnet50", ratio=0.25, lfu=False),
    "ffc_resnet50_lfu": recipe("ffc_resnet50", ratio=0.25, lfu=True),
    "resnet50_nl": recipe("resnet50_nl"),
    "resnet50_bat": recipe("resnet50_bat", block_options={"dropout": 0.2}),
    "resnet18_bat": recipe("resnet18_bat", block_options={"dropout": 0.0}),
}
# The 7x7 grid of bilinear attention needs a map as large, which digits have in the first stage.
where_maps_are_large = {"blocks_at": {1: (0,)}}
variants = {
    **published,
    **{f"{name}_modern": modern(config) for name, config in published.items()},
    **{
        f"{name}_smoke": smoke(config, **(where_maps_are_large if name.endswith("_bat") else {}))
        for name, config in published.items()
    },
}
config = published["ffc_resnet50_lfu"]
