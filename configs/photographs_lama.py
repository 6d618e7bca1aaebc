"""A narrow LaMa for one photograph, in five minutes of one core: L1 in the holes, crops of 64.

Published: nothing to compare with. Here: see docs/guides/dense.md. python -m evidence.photographs
writes folders of photographs: train/ and test/, with images in any sub-folders, 96 pixels a side at
least. The discriminator is as small as it can be, since it has no part in the loss.
Run: python -m train configs/photographs_lama.py --data.path FOLDER
Without spectral transforms, at equal multiply-adds: --options.ratio 0 --options.width 10
"""

import dataclasses

from configs.places_lama import config as published
from train.config import Config, Data, Schedule

config = Config(
    task="inpainting",
    model="lama",
    options=dict(blocks=4, width=12, downsampling=2),
    task_options=dict(
        l1_known=0.3,
        l1_missing=10.0,
        adversarial=0.0,
        feature_matching=0.0,
        discriminator_width=8,
        discriminator_layers=1,
    ),
    data=Data(name="image_folder", size=(64, 64)),
    batch_size=8,
    eval_batch_size=4,
    steps=1000,
    optimizer=dataclasses.replace(published.optimizer, learning_rate=4e-3),
    schedule=Schedule(name="cosine", warmup=0.02),
    log_every=50,
    save_every=1000,
)
