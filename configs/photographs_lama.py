"""draft"""

import dataclasses

from configs.places_lama import config as published
from train.config import Config, Data, Schedule

config = Config(
    task="inpainting",
    model="lama",
    options=dict(blocks=6, width=12),
    task_options=dict(
        l1_known=1.0,
        l1_missing=10.0,
        adversarial=0.0,
        feature_matching=0.0,
        discriminator_width=8,
        discriminator_layers=1,
    ),
    data=Data(name="image_folder", size=(64, 64)),
    batch_size=16,
    eval_batch_size=20,
    steps=400,
    optimizer=dataclasses.replace(published.optimizer, learning_rate=3e-3),
    schedule=Schedule(name="cosine", warmup=0.02),
    log_every=50,
    save_every=1000,
)
