"""LaMa-Fourier on photographs, by the published recipe, 40 epochs of 25000 batches.

Published: compared by FID on Places, which needs a network of its own; here: not run yet.
The folder holds train/ and test/ with images in any sub-folders. As published: losses, masks,
optimisers, crops of 256, gradients of norm 1, distortions (but for the equalisation of histograms).
Otherwise: batches are of 80 (published: 10 on each of several GPUs), and the perceptual loss
(published weight 30) needs an encoder: task_options=dict(distort=True, perceptual=30.0,
encoder_model="resnet50", encoder_weights=FILE, encoder_options=dict(output_stride=8)).
Run: python -m train configs/places_lama.py --data.path FOLDER
Test with the published masks: python -m train.evaluate --workdir runs/places_lama
  --data.size 512 512 --task-options.test-masks thick_512
Big LaMa: --model lama_big
"""

from train.config import Config, Data, Optimizer, Schedule

config = Config(
    task="inpainting",
    model="lama",
    task_options=dict(distort=True),
    data=Data(name="image_folder", size=(256, 256)),
    batch_size=80,
    eval_batch_size=80,
    steps=1_000_000,
    optimizer=Optimizer(
        name="adamw",
        learning_rate=1e-3,
        reference_batch=None,
        weight_decay=0.0,
        factors={"discriminator": 0.1},
        clip_norm=1.0,
    ),
    schedule=Schedule(name="constant", warmup=0.0),
    log_every=100,
    eval_every=25_000,
    save_every=5_000,
)
