# SPDX-License-Identifier: Apache-2.0
"""The picture of docs/operators.md: what each operator alone sees, with random weights.

Run: python -m docs.footprints
"""

import pathlib

import jax
import numpy as np
from flax import nnx

import spectral_flax as sf
from spectral_flax.analysis.figures import FIELD_LEGEND
from spectral_flax.analysis.panels import Group, Panel, Scale, grid, matplotlib, save_figure
from spectral_flax.analysis.random_networks import open_gates, set_batch_statistics
from spectral_flax.analysis.receptive_field import receptive_field

PICTURE = pathlib.Path(__file__).parent / "pictures" / "operators.png"
SIDE, CHANNELS, COLUMNS = 28, 32, 8
LAYERS = {
    "convolution": lambda rngs: sf.layers.conv(CHANNELS, CHANNELS, 3, rngs=rngs),
    "Fourier unit": lambda rngs: sf.layers.FourierUnit(CHANNELS, CHANNELS, rngs=rngs),
    "with LFU": lambda rngs: sf.layers.SpectralTransform(CHANNELS, CHANNELS, rngs=rngs),
    "FFC": lambda rngs: sf.layers.FFC(CHANNELS, CHANNELS, 3, rngs=rngs),
}
BLOCKS = {
    "SRL-FFT": "srl_fft",
    "SRL-DCT": "srl_dct",
    "SRL-LO": "srl_lo",
    "BAT": "bat",
    "NL": "nl",
    "A²": "a2",
    "CGNL": "cgnl",
    "RCCA": "rcca",
    "GloRe": "glore",
    "GFNet": "gfnet",
    "AFNO": "afno",
    "FNO": "fno",
}


class Alone(nnx.Module):
    """What a layer, or a block without the map that it is added to, makes of a map."""

    def __init__(self, layer: nnx.Module, residual: bool):
        self.layer, self.residual = layer, residual

    def __call__(self, x):
        return self.layer(x) - x if self.residual else self.layer(x)

    def features(self, x):
        return {"map": self(x)}


def field(build, residual: bool, maps: jax.Array) -> np.ndarray:
    """Return how much each position moves the centre of the result, in multiples of the mean."""
    model = Alone(build(nnx.Rngs(0)), residual)
    open_gates(model)
    set_batch_statistics(model, maps)
    energy = receptive_field(model, maps, draws=8)
    return energy / energy.mean()


def main() -> None:
    """Draw the picture."""
    maps = jax.random.normal(jax.random.key(1), (4, SIDE, SIDE, CHANNELS))
    fields = {title: field(build, False, maps) for title, build in LAYERS.items()}
    for title, name in BLOCKS.items():
        options = sf.layers.BLOCKS[name].for_map({}, (SIDE, SIDE))
        build = lambda rngs, n=name, o=options: sf.layers.block(n, CHANNELS, rngs=rngs, **o)
        fields[title] = field(build, True, maps)
    panels = [Panel(title, energy) for title, energy in fields.items()]
    rows = [panels[i : i + COLUMNS] for i in range(0, len(panels), COLUMNS)]
    norm = matplotlib().colors.LogNorm(1e-3, 100, clip=True)
    label = FIELD_LEGEND.partition("\n")[0]
    figure = grid([Group(rows, Scale(label, norm))], "What each operator sees from the centre")
    save_figure(figure, PICTURE, overwrite=True)


if __name__ == "__main__":
    main()
