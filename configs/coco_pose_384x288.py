"""SimpleBaseline on COCO keypoints at 384x288: `coco_pose` with the Gaussians of that size.

Published AP / AR; here: not run yet.

    --model                 plain          _srl_fft
    pose_resnet50           72.2 / 77.6    73.3 / 78.6
    pose_resnet101          73.6 / 79.1    74.3 / 79.7
    pose_resnet152          74.3 / 79.7    74.6 / 80.1

Encoders compared in the same work, ResNet-50: dilated, 72.3 / 77.6, is --options.encoder dilated;
"baseline*", 66.3 / 72.0, most likely --options.encoder unstrided, and blocks in that
encoder gave 72.7 / 77.9 (three non-local), 73.4 / 78.8 (three SRL-FFT) and 73.7 / 78.9 (four).
Where those stood is not published; after the blocks of stage 4, and one of stage 3 for the fourth:
--model pose_resnet50_srl_fft --options.encoder unstrided --options.blocks_at "{4: (0, 1, 2)}"
Run: python -m train configs/coco_pose_384x288.py --data.path COCO
  --task-options.boxes DETECTIONS.json
"""

import dataclasses

from configs.coco_pose import config as smaller

config = dataclasses.replace(
    smaller,
    task_options=smaller.task_options | dict(sigma=3),
    data=dataclasses.replace(smaller.data, size=(384, 288)),
)
