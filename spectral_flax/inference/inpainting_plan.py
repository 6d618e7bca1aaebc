# SPDX-License-Identifier: Apache-2.0
"""How an image is inpainted with the memory that there is: decided before anything is compiled."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import numpy as np

from spectral_flax.inference.generator import Generator
from spectral_flax.inference.holes import LEAST_SIDE, Crop, Holes
from spectral_flax.memory import shown_memory
from spectral_flax.messages import closest

Mode = Literal["auto", "whole", "rows", "crops", "refine"]
SMALLEST = 8  # how much smaller the smallest maps of a generator are than the image
REDUCTIONS = 3  # sizes that a crop may be refined at: its own, a half, a quarter
SHARE = 1.1  # of one device's memory over the number of devices, which each of them takes


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be done with an image ``[H, W]``."""

    mode: Mode
    size: tuple[int, int]
    memory: int  # bytes on a device, about
    devices: int = 1
    holes: Holes | None = None
    crops: tuple[Crop, ...] = ()
    finest: tuple[int, ...] = ()  # how often the sides of each crop are halved, to be refined

    def __str__(self) -> str:
        size = " x ".join(map(str, self.size))
        needs = f"about {shown_memory(self.memory)}"
        if self.mode == "whole":
            return f"whole: {size} pixels, {needs}"
        if self.mode == "rows":
            return f"rows: {size} pixels over {self.devices} devices, {needs} each"
        largest = max((crop.shape for crop in self.crops), key=math.prod)
        count = f"{len(self.crops)} crop{'s' * (len(self.crops) > 1)}"
        told = f"{count} of {size} pixels, {largest[0]} x {largest[1]} at most"
        if any(self.finest):
            told += f", down to 1/{2 ** max(self.finest)} of the size and enlarged"
        return f"{self.mode}: {told}, {needs}"


def check_mode(mode: str) -> None:
    """Raise ValueError if ``mode`` is none."""
    if mode not in get_args(Mode):
        raise ValueError(f"mode={mode!r} is unknown; {closest(str(mode), get_args(Mode))}")


def make_plan(
    generator: Generator,
    missing: np.ndarray,
    *,
    mode: Mode = "auto",
    limit: int | None = None,
    devices: Sequence[jax.Device] = (),
) -> Plan:
    """Return how the holes ``bool [H, W]`` of an image are to be filled.

    With "auto": whole if a device has the memory, ``limit`` bytes, or with the rows over several
    ``devices``, else in crops, else refined from smaller sizes. What is asked for by name is done,
    or refused where it is not possible with ``limit``. Devices that are the CPU share its memory.

    Raises:
      ValueError: it can not be done, or not so; the message names the sizes.
    """
    size, faults = missing.shape, []
    most = float("inf") if limit is None else limit
    if mode in ("auto", "whole"):
        plan = Plan("whole", size, generator.memory((1, *size)))
        if plan.memory <= most:
            return plan
        faults.append(f"whole takes about {shown_memory(plan.memory)}")
    if mode == "rows" or (mode == "auto" and len(devices) > 1):
        try:
            plan = _by_rows(generator, size, devices)
            if plan.memory <= most / (len(devices) if devices[0].platform == "cpu" else 1):
                return plan
            each = f"{shown_memory(plan.memory)} on each of {len(devices)} devices"
            faults.append(f"by rows about {each}")
        except ValueError as error:
            faults.append(str(error))
    if mode in ("auto", "crops"):
        try:
            return _in_crops(generator, missing, most)
        except ValueError as error:
            faults.append(str(error))
    if mode in ("auto", "refine"):
        try:
            return _refined(generator, missing, most)
        except ValueError as error:
            faults.append(str(error))
    allowed = "" if limit is None else f" with {shown_memory(limit)} of memory"
    of = f"an image of {size[0]} x {size[1]} pixels"
    raise ValueError(f"{of} can not be inpainted{allowed}: {'; '.join(faults)}")


def _by_rows(generator: Generator, size: tuple[int, int], devices: Sequence[jax.Device]) -> Plan:
    count, rows = len(devices), -(-size[0] // SMALLEST)
    if count < 2:
        raise ValueError("by rows needs several devices, and there is one")
    if rows < count:
        raise ValueError(
            f"by rows {count} devices would share {rows} rows of the smallest maps; of them {rows} "
            f"devices can, or {count} of an image with {SMALLEST * (count - 1) + 1} rows"
        )
    return Plan("rows", size, int(SHARE * generator.memory((1, *size), count)), count)


def _in_crops(generator: Generator, missing: np.ndarray, most: float) -> Plan:
    memory = functools.cache(lambda shape: generator.memory((1, *shape)))
    least = tuple(min(n, LEAST_SIDE) for n in missing.shape)
    if memory(least) > most:
        takes = f"takes about {shown_memory(memory(least))}"
        raise ValueError(f"the least crop, {least[0]} x {least[1]}, {takes}")
    per_pixel = memory(least) / math.prod(least)

    def fits(shape: tuple[int, int]) -> bool:
        # A trace takes seconds: only where it is a near thing.
        if shape[0] * shape[1] * per_pixel > 2 * most:
            return False
        return memory(shape) <= most

    holes = Holes(missing)
    crops = tuple(holes.crops(fits))
    largest = max(memory(crop.shape) for crop in crops)
    return Plan("crops", missing.shape, largest, holes=holes, crops=crops)


def _refined(generator: Generator, missing: np.ndarray, most: float) -> Plan:
    memory = functools.cache(generator.refinement_memory)
    least = _reduced([min(n, LEAST_SIDE) for n in missing.shape], REDUCTIONS - 1)
    if memory(least) > most:
        takes = f"takes about {shown_memory(memory(least))}"
        raise ValueError(f"to refine the least crop, {least[0]} x {least[1]}, {takes}")
    holes = Holes(missing)
    crops = tuple(holes.crops(lambda size: True))
    finest = []
    for crop in crops:
        sizes = [_reduced(crop.shape, halvings) for halvings in range(REDUCTIONS)]
        fitting = [halvings for halvings, size in enumerate(sizes) if memory(size) <= most]
        if not fitting:
            size, takes = " x ".join(map(str, sizes[-1])), shown_memory(memory(sizes[-1]))
            raise ValueError(f"to refine a crop at {size} pixels takes about {takes}")
        finest.append(fitting[0])
    sizes = {_reduced(crop.shape, h) for crop, h in zip(crops, finest, strict=True)}
    return Plan("refine", missing.shape, max(map(memory, sizes)), 1, holes, crops, tuple(finest))


def _reduced(size: Sequence[int], halvings: int) -> tuple[int, ...]:
    return tuple(-(-n // 2**halvings) for n in size)
