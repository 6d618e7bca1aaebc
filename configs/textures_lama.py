"""A small LaMa on periodic textures with holes: a smoke test.

Data are made on the spot. Published: nothing to compare with.
Run: python -m train configs/textures_lama.py
Without spectral transforms: --options.ratio 0
"""

from train.config import Config, Data, Optimizer, Schedule

config = Config(
    task="inpainting",
    model="lama",
    options=dict(blocks=2, width=16),
    task_options=dict(
        l1_missing=10.0,
        adversarial=0.1,
        feature_matching=1.0,
        discriminator_width=16,
        discriminator_layers=2,
    ),
    data=Data(name="textures", size=(64, 64)),
    batch_size=8,
    eval_batch_size=20,
    steps=150,
    optimizer=Optimizer(
        name="adamw",
        learning_rate=2e-3,
        reference_batch=None,
        weight_decay=0.0,
        factors={"discriminator": 0.1},
        clip_norm=1.0,
    ),
    schedule=Schedule(name="cosine", warmup=0.02),
    log_every=25,
    save_every=150,
)
