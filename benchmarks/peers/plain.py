# SPDX-License-Identifier: Apache-2.0
"""One convolution, one batch normalisation, one transform, as PyTorch has them."""

import torch
from torch import nn


def convolution_3x3(shape):
    return nn.Conv2d(shape[-1], shape[-1], 3, padding=1, bias=False)


def convolution_1x1(shape):
    return nn.Conv2d(shape[-1], shape[-1], 1, bias=False)


def batch_normalisation(shape):
    return nn.BatchNorm2d(shape[-1])


def fft_and_back(shape):
    return _ThereAndBack()


class _ThereAndBack(nn.Module):
    """A spectrum with real and imaginary parts apart, as the published code holds it, and back."""

    def forward(self, x):
        spectrum = torch.view_as_real(torch.fft.rfft2(x, norm="ortho"))
        return torch.fft.irfft2(torch.view_as_complex(spectrum), x.shape[-2:], norm="ortho")
