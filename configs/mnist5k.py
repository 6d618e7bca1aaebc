"""A small FFC-ResNet on 5000 handwritten digits that live in the repository.

Published: nothing to compare with. Here: 98.3 % of the 1000 test digits (seed 0), in 50 seconds.
Run: python -m train configs/mnist5k.py
"""

from train.config import Config, Optimizer, Schedule

config = Config(
    model="ffc_resnet18",
    # Three stages of one block; the stem brings the digits to 7x7, enough for them and quick.
    options=dict(width=32, depths=(1, 1, 1)),
    epochs=12,
    batch_size=64,
    optimizer=Optimizer(learning_rate=0.1, reference_batch=64, weight_decay=5e-4),
    schedule=Schedule(name="cosine", warmup=0.1),
    log_every=25,
    eval_every=250,
    save_every=125,
)
