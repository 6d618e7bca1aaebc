"""A small FFC-ResNet on 5000 handwritten digits that live in the repository.

Published: nothing to compare with. Here: not run yet.
Run: python -m train configs/mnist5k.py
"""

from train.config import Config, Optimizer, Schedule

config = Config(
    model="ffc_resnet18",
    options=dict(width=16, stem="small"),
    epochs=8,
    batch_size=64,
    optimizer=Optimizer(learning_rate=0.1, reference_batch=64, weight_decay=5e-4),
    schedule=Schedule(name="cosine", warmup=0.1),
    log_every=20,
    eval_every=250,
    save_every=100,
)
