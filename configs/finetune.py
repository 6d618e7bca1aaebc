"""Finetuning of a network on a folder of images or videos, a folder per class.

Published: nothing to compare with; the schedule is our choice, the layer-wise decay that of Clark
et al., "ELECTRA", ICLR 2020. The folder has train/CLASS/FILES and val/CLASS/FILES. Model, size and
scaling of images are those that the weights tell; files of other programs need --model too.
Run: python -m train configs/finetune.py --data.path FOLDER --pretrained.weights FILE-OR-RUN
     [--model NAME] [--data.name video_folder] [--freeze stem stage1] [--epochs 20]
     [--freeze "stem" "stage?"   for a linear probe]
"""

from train.config import Config, Data, Optimizer, Schedule

config = Config(
    model=None,
    epochs=20,
    batch_size=16,
    optimizer=Optimizer(
        name="adamw",
        learning_rate=5e-4,
        reference_batch=64,
        weight_decay=0.05,
        decay="kernels",
        layer_decay=0.75,
        clip_norm=1.0,
    ),
    schedule=Schedule(name="cosine", warmup=0.1),
    task_options=dict(label_smoothing=0.1),
    data=Data(name="image_folder_classes", scale=(0.35, 1.0), erase=0.1),
    best="accuracy",
    eval_every=50,
    log_every=10,
    save_every=200,
)
