# SPDX-License-Identifier: Apache-2.0
"""The generator of LaMa, as published."""

import torch
from torch import nn

from benchmarks.peers.fourier import FFCNormAct

REFLECTED = dict(lfu=False, padding_mode="reflect")


class Residual(nn.Module):
    """Two FFCs beside the identity."""

    def __init__(self, features: int, ratio: float):
        super().__init__()
        shape = features, features, 3, ratio, ratio
        self.conv1, self.conv2 = (FFCNormAct(*shape, **REFLECTED) for _ in range(2))

    def forward(self, pair):
        return tuple(a + b for a, b in zip(pair, self.conv2(self.conv1(pair)), strict=True))


class Joined(nn.Module):
    """Local and global channels in one map."""

    def forward(self, pair):
        return torch.cat(pair, 1)


class Generator(nn.Module):
    """Three halvings, residual blocks of FFCs, three doublings."""

    def __init__(self, blocks: int = 9, ratio: float = 0.75, sigmoid: bool = True):
        super().__init__()
        layers = [
            nn.ReflectionPad2d(3),
            FFCNormAct(4, 64, 7, 0, 0, padding=0, **REFLECTED),
            FFCNormAct(64, 128, 3, 0, 0, stride=2, **REFLECTED),
            FFCNormAct(128, 256, 3, 0, 0, stride=2, **REFLECTED),
            FFCNormAct(256, 512, 3, 0, ratio, stride=2, **REFLECTED),
            *(Residual(512, ratio) for _ in range(blocks)),
            Joined(),
        ]
        for features in (256, 128, 64):
            up = nn.ConvTranspose2d(2 * features, features, 3, 2, padding=1, output_padding=1)
            layers += [up, nn.BatchNorm2d(features), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(64, 3, 7)]
        self.model = nn.Sequential(*layers, *([nn.Sigmoid()] if sigmoid else []))

    def forward(self, x):
        return self.model(x)
