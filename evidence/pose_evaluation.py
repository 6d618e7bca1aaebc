# SPDX-License-Identifier: Apache-2.0
"""Evaluation of poses in a detector's boxes moves a row a box, not a table of all boxes a batch.

As many boxes as detectors give on COCO's validation images, 104 125, in batches of 128, through the
evaluation of `train` with a stub for the network. Printed are the bytes that come from the device,
and the seconds, for the task as it is and for the way it was: each batch's joints in a table
of everybody's, whose sums are those of all batches. Both must give the same joints.

Run: python -m evidence.pose_evaluation [--boxes 104125] [--batch 128]
"""

import argparse
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results import write
from train.run.evaluate import total
from train.tasks.pose.task import Pose

SIDE = 64


class Stub:
    """A network of 17 heatmaps that costs nothing: four by four pixels of the image added up."""

    def __call__(self, x: jax.Array) -> jax.Array:
        small = x.reshape(len(x), SIDE // 4, 4, SIDE // 4, 4, -1).sum((2, 4, 5))
        return small[..., None] * jnp.arange(1.0, 18.0)


class Table:
    """The way it was: one table of everybody's joints, which adds up over batches."""

    rows = ()

    def __init__(self, task: Pose, boxes: int):
        self.task, self.boxes = task, boxes

    def metric_sums(self, model, batch):
        found = self.task.metric_sums(model, batch)
        joints = found["joints"] * (found["valid"] > 0)[:, None, None]
        return {"joints": jnp.zeros((self.boxes, 17, 3)).at[batch["index"]].add(joints)}


def batches(boxes: int, size: int) -> Iterator[dict[str, np.ndarray]]:
    images = np.random.default_rng(0).integers(0, 256, (size, SIDE, SIDE, 3), np.uint8)
    for start in range(0, boxes, size):
        index = np.arange(start, start + size)
        valid = (index < boxes).astype(np.float32)
        images = np.roll(images, 5, axis=2)
        yield {"image": images, "index": (index % boxes).astype(np.int32), "valid": valid}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=104_125)
    parser.add_argument("--batch", type=int, default=128)
    given = parser.parse_args()
    task, results, tables = Pose(test=None, image_shape=(SIDE, SIDE, 3)), {}, []
    for name, way in (("a table a batch", Table(task, given.boxes)), ("a row a box", task)):
        moved = 0
        compiled = jax.jit(lambda batch, way=way: way.metric_sums(Stub(), batch))

        def step(params, model_state, batch, compiled=compiled):
            nonlocal moved
            found = compiled(batch)
            moved += sum(array.nbytes for array in found.values())
            return found

        began = time.perf_counter()
        found = total(step, way, {}, {}, batches(given.boxes, given.batch))
        seconds = time.perf_counter() - began
        if "index" in found:
            joints = np.zeros((given.boxes, 17, 3))
            seen = found["valid"] > 0
            joints[found["index"][seen]] = found["joints"][seen]
            found = {"joints": joints}
        tables.append(found["joints"])
        results[name] = {"bytes": moved, "seconds": seconds}
        print(f"{name:16} {moved:16,} bytes {seconds:8.1f} s", flush=True)
    same = np.array_equal(*tables)
    print("the same joints" if same else "OTHER JOINTS")
    write("pose_evaluation", results)
    return int(not same)


if __name__ == "__main__":
    raise SystemExit(main())
