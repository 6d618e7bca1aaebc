"""U-Net*, with a spectral residual block before up4, on skin lesions.

Published, by the block's place and kind: mean accuracy 92.38, accuracy 95.61, mean IoU 87.42,
weighted IoU 91.70 (U-Net* alone: 90.60, 93.79, 83.10, 88.65). Here: not run yet.
Which edition of ISIC, its split, the input size, the losses and the optimisation were not
published: those below are our choice. The folder holds train/ and test/, each with images/
(JPEG) and masks/ (PNG).
Run: python -m train configs/isic_unet_star.py --data.path FOLDER
Other places: --options.blocks_at "('a/up2',)"; without the block: --model unet_star
"""

from train.config import Config, Data, Optimizer, Schedule

config = Config(
    task="segmentation",
    model="unet_star_srl_fft",
    options=dict(blocks_at=("b/up4",)),
    task_options=dict(cross_entropy=1.0, dice=1.0),
    data=Data(name="image_mask_folders", size=(256, 256)),
    epochs=100,
    batch_size=16,
    eval_batch_size=16,
    optimizer=Optimizer(name="adamw", learning_rate=1e-3, reference_batch=16, weight_decay=1e-4),
    schedule=Schedule(name="cosine", warmup=0.02),
)
