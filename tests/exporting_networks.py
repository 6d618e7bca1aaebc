"""Narrow networks of each family that is exported, every block taking part."""

import spectral_flax as sf
from spectral_flax.analysis.random_networks import open_gates

SIZE = (64, 48)
_THIN = dict(width=32, depths=(1, 1), num_classes=3)
FAMILIES = {
    "ffc_resnet18": _THIN,
    "resnet18_nl": _THIN | dict(blocks_at={2: (0,)}),
    "resnet18_bat": _THIN | dict(blocks_at={2: (0,)}, input_size=SIZE),
    "c2d_resnet18_nl": _THIN | dict(blocks_at={2: (0,)}),
    "pose_resnet18_srl_fft": dict(
        encoder_width=8, depths=(1, 1, 1, 1), decoder_width=8, input_size=SIZE
    ),
    "unet_star_srl_fft": dict(width=8, input_size=SIZE),
    "lama": dict(width=8, blocks=1),
}


def network(name: str):
    model = sf.create_model(name, **FAMILIES[name])
    open_gates(model)
    return model
