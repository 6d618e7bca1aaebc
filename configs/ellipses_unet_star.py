"""U-Net*, with a spectral residual block before up4, on textured ellipses: a smoke test.

Data are made on the spot. Published: nothing to compare with.
Run: python -m train configs/ellipses_unet_star.py
Without the block: --model unet_star
"""

from train.config import Config, Data, Optimizer, Schedule

config = Config(
    task="segmentation",
    model="unet_star_srl_fft",
    options=dict(width=8),
    data=Data(name="ellipses", size=(64, 64)),
    batch_size=8,
    eval_batch_size=20,
    steps=300,
    optimizer=Optimizer(name="adamw", learning_rate=2e-3, reference_batch=None, weight_decay=0.0),
    schedule=Schedule(name="cosine", warmup=0.05),
    log_every=20,
    save_every=300,
)
