# SPDX-License-Identifier: Apache-2.0
"""The table of models in README.md: `python -m docs.model_table` writes it anew."""

import pathlib

import spectral_flax as sf
from spectral_flax.analysis.profile import profile

README = pathlib.Path(__file__).parent.parent / "README.md"
START, END = "<!-- models -->\n", "<!-- /models -->\n"
ROWS = [
    "resnet18",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "ffc_resnet18",
    "ffc_resnet50",
    "ffc_resnet101",
    "resnet50_nl",
    "resnet50_bat",
    "resnet50_srl_fft",
    "octave_resnet50",
    "gfnet_tiny",
    "c2d_resnet50",
    "c2d_resnet50_bat3d",
    "i3d_resnet50_nl",
    "ffc_c2d_resnet50",
    "tsm_resnet50",
    "s3d",
    "pose_resnet50_srl_fft",
    "lama_big",
]


def row(name: str) -> str:
    """Return the line of one model: its cost on one input of its card's size."""
    card, model = sf.card(name), sf.abstract_model(name)
    channels = getattr(model, "in_features", 3)
    total = profile(model, (1, *card.input_size, channels)).total
    size = " x ".join(map(str, card.input_size))
    cost = f"{total.parameters / 1e6:.2f} | {total.multiply_adds / 1e9:.2f}"
    return f"| `{name}` | {size} | {cost} | {card.published} |\n"


def table() -> str:
    """Return the table in Markdown."""
    head = "| model | input | parameters (M) | multiply-adds (G) | published |\n"
    return head + "| --- | --- | ---: | ---: | --- |\n" + "".join(map(row, ROWS))


def written() -> str:
    """Return the table as README.md has it."""
    return README.read_text().partition(START)[2].partition(END)[0]


if __name__ == "__main__":
    before, _, rest = README.read_text().partition(START)
    README.write_text(before + START + table() + END + rest.partition(END)[2])
