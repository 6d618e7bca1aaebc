"""SimpleBaseline on COCO keypoints at 256x192, 140 epochs: every depth, block and encoder.

Published AP / AR in the boxes of a detector of person AP 56.4, with flip test (microsoft/
human-pose-estimation.pytorch, 1820366459/SRL-Pose-Estimation). Here: not run yet.

    --model                 plain          _srl_fft
    pose_resnet50           70.4 / 76.3    70.9 / 76.8
    pose_resnet101          71.4 / 77.1    71.8 / 77.6
    pose_resnet152          72.0 / 77.8    72.1 / 78.0

Other blocks after each deconvolution, ResNet-50: _nl 70.6, _a2 70.5, _cgnl_rbf 70.6, _rcca 70.6;
also _srl_lo. After some of them only: --options.blocks_at "{'decoder': (0,)}".
The folder holds annotations/, train2017/ and val2017/. Published training starts from ImageNet
weights: --task-options.encoder-weights FILE.
Run: python -m train configs/coco_pose.py --data.path COCO
  --task-options.boxes DETECTIONS.json
"""

from train.config import Config, Data, Optimizer, Schedule

config = Config(
    task="pose",
    model="pose_resnet50",
    task_options=dict(sigma=2, flip_test=True),
    data=Data(name="coco_keypoints", size=(256, 192)),
    epochs=140,
    batch_size=128,
    eval_batch_size=128,
    # Adam without decay: the published configuration names 1e-4 but its code does not apply it.
    optimizer=Optimizer(name="adamw", learning_rate=1e-3, reference_batch=None, weight_decay=0.0),
    schedule=Schedule(name="step", warmup=0.0, drop_at=(90 / 140, 120 / 140)),
)
