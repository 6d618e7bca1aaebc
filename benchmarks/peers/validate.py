# SPDX-License-Identifier: Apache-2.0
"""Compare the PyTorch forms with the published numbers of tests/parity.

Weights are loaded strictly by their published names; outputs in evaluation and training mode must
agree to 20 times what float32 cost the published code.

Run: python -m benchmarks.peers.validate
"""

import importlib.util
import pathlib

import numpy as np
import torch

from benchmarks.peers import attention, fourier, inpainting, resnet, video

ROOT = pathlib.Path(__file__).parents[2] / "tests" / "parity"
CASES = {
    "fourier_unit": lambda: fourier.FourierUnit(16, 16),
    "fourier_unit_groups_odd": lambda: fourier.FourierUnit(16, 32, groups=2),
    "spectral_transform_lfu": lambda: fourier.SpectralTransform(32, 32),
    "ffc_resnet50_lfu": lambda: fourier.FFCResNet(ratio=0.5, lfu=True),
    "srl_fft": lambda: fourier.FourierBlock(16),
    "nonlocal_2d": lambda: attention.NonLocal(16),
    "bat_2d": lambda: attention.BilinearAttention(32),
    "srl_lo": lambda: fourier.OrthogonalBlock(16, (16, 12)),
    "bat_3d": lambda: video.BilinearAttention(32, tk=2),
    "bat_3d_larger_grid": lambda: video.BilinearAttention(32, tk=2),
    "bat_3d_spatial_only": lambda: video.BilinearAttention(32, tk=0),
    "double_attention": lambda: attention.DoubleAttention(16),
    "cgnl": lambda: attention.CompactNonLocal(32),
    "criss_cross": lambda: attention.RecurrentCrissCross(64),
    "resnet50": resnet.ResNet,
    "nl_resnet50": lambda: resnet.ResNet(block=attention.NonLocal),
    "bat_resnet50": lambda: resnet.ResNet(block=attention.BilinearAttention),
    "c2d_resnet50": video.C2D,
    "c2d_resnet50_bat3d": lambda: video.C2D(
        block=lambda features: video.BilinearAttention(features, k=8, tk=4)
    ),
    "lama_9_blocks": inpainting.Generator,
    "lama_9_blocks_odd": lambda: inpainting.Generator(sigmoid=False),
}


def validate(case: str) -> float:
    """Return the largest relative error of a case; raise SystemExit when it is too large."""
    spec = importlib.util.spec_from_file_location("fill", ROOT / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    about, state, x, expected = fill.load(case, ROOT)
    peer = CASES[case]()
    peer.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()}, strict=True)
    worst = 0.0
    for mode, key in ((False, "output"), (True, "train_output")):
        if key in expected:
            with torch.no_grad():
                y = peer.train(mode)(torch.from_numpy(x)).numpy()
            worst = max(worst, float(np.abs(y - expected[key]).max() / np.abs(expected[key]).max()))
    limit = max(20 * about["float32_relative_error"], 1e-5)
    if not worst <= limit:
        raise SystemExit(f"{case}: off by {worst:.1e}; allowed {limit:.1e}")
    return worst


def main():
    for case in CASES:
        print(f"{case:28}{validate(case):.1e}", flush=True)


if __name__ == "__main__":
    main()
