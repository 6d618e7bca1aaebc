# SPDX-License-Identifier: Apache-2.0
"""What a model needs besides its weights: how its input is prepared, and what its output means."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

Fit = Literal["crop", "stretch", "any"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
ChannelOrder = Literal["RGB", "BGR", "grey"]
Sampling = Literal["dense", "uniform"]
WeightKind = Literal["raw", "ema"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images and clips become a model's input.

    Attributes:
      input_size: height and width, for clips with the number of frames in front.
      fit: "crop" (the short side becomes ``resize``, the centre is cut out), "stretch" (height and
        width become ``input_size``, whatever they were) or "any" (the size stays as it is).
      resize: short side before the crop.
      interpolation: Pillow's name of the filter.
      mean: of each channel, of numbers from 0 to 1, or to 255 if any is above 1.
      std: standard deviation of each channel, in the same scale.
      channel_order: "RGB", "BGR" or "grey".
      sampling: "dense" (a clip is every so many frames) or "uniform" (one of each equal part of the
        video).
      stride: frames of the video between two of a clip, where it is dense.
      segments: clips spread over a video that make one example.

    Raises:
      ValueError: a value is none of these.
    """

    input_size: tuple[int, ...] = (224, 224)
    fit: Fit = "crop"
    resize: int = 256
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channel_order: ChannelOrder = "RGB"
    sampling: Sampling = "dense"
    stride: int = 8
    segments: int = 1

    def __post_init__(self) -> None:
        known = {"fit": Fit, "interpolation": Interpolation}
        known |= {"channel_order": ChannelOrder, "sampling": Sampling}
        for name, kind in known.items():
            value = getattr(self, name)
            if value not in get_args(kind):
                expected = ", ".join(map(repr, get_args(kind)))
                raise ValueError(f"{name}={value!r}; expected one of {expected}")
        numbers = (*self.input_size, self.resize, self.stride, self.segments)
        if len(self.input_size) not in (2, 3) or not all(
            type(n) is int and 0 < n < 2**20 for n in numbers
        ):
            raise ValueError(
                f"input_size={self.input_size!r}, resize={self.resize!r}, stride={self.stride!r}, "
                f"segments={self.segments!r}; expected positive integers, two or three for the size"
            )
        if not self.mean or len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            raise ValueError(
                f"mean={self.mean!r}, std={self.std!r}; expected a number and a positive number a "
                "channel"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card(Preprocessing):
    """What comes with a name: where the model is from and how its input is prepared."""

    paper: str = ""
    code: str = ""
    licence: str = ""
    published: str = ""
    note: str = ""

    @property
    def preprocessing(self) -> Preprocessing:
        """How the model's input is prepared, by itself."""
        fields = dataclasses.fields(Preprocessing)
        return Preprocessing(**{field.name: getattr(self, field.name) for field in fields})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """What travels with a model's weights.

    Attributes:
      model: its name in the zoo; None where nothing tells.
      options: those it was built with.
      task: "classification", "pose", "segmentation" or "inpainting"; "" for others.
      preprocessing: how its input is prepared; None: as its card says.
      class_names: of its outputs, in order; empty: their numbers.
      weights: "ema" (averaged over training), "raw" or, where nothing tells, None.
      step: of the run that trained it.
      figures: metrics of these weights.
      licence: of the weights.
      source: where they come from.
      run: the config of the run that trained it.
    """

    model: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    task: str = ""
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] = ()
    weights: WeightKind | None = None
    step: int | None = None
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    licence: str = ""
    source: str = ""
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def __hash__(self) -> int:  # JAX hashes it with the model's structure; options are no keys
        return hash(self.model)


UNKNOWN = ModelRecord()
"""The record of weights that tell nothing."""
