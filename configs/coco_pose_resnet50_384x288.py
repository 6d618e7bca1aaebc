"""SimpleBaseline-ResNet-50 on COCO keypoints at 384x288, 140 epochs.

Published: AP 72.2, AR 77.6; with SRL-FFT blocks AP 73.3, AR 78.6. Here: not run yet.
As configs/coco_pose_resnet50.py but for the size and the Gaussians that go with it.
Run: python -m train configs/coco_pose_resnet50_384x288.py --data.path COCO --data.boxes FILE
"""

from train.config import Config, Data, Optimizer, Schedule

config = Config(
    task="pose",
    model="pose_resnet50",
    task_options=dict(sigma=3, flip_test=True),
    data=Data(name="coco_keypoints", size=(384, 288)),
    epochs=140,
    batch_size=128,
    eval_batch_size=128,
    optimizer=Optimizer(name="adamw", learning_rate=1e-3, reference_batch=None, weight_decay=0.0),
    schedule=Schedule(name="step", warmup=0.0, drop_at=(90 / 140, 120 / 140)),
)
