# SPDX-License-Identifier: Apache-2.0
"""ResNet-50 in PyTorch, with torchvision's names, and blocks between its own as published."""

import collections

import torch
from torch import nn

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
NORMALISATIONS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def window(rank: int, size: int, frames: int = 1) -> tuple[int, ...]:
    """``size`` in height and width and, for a video, ``frames`` in time."""
    return (frames,) * (rank - 2) + (size, size)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, rank: int = 2):
        super().__init__()
        conv, norm = CONVOLUTIONS[rank], NORMALISATIONS[rank]
        stride = window(rank, stride)
        self.conv1, self.bn1 = conv(inputs, width, 1, bias=False), norm(width)
        three, one = window(rank, 3), window(rank, 1, frames=0)
        self.conv2, self.bn2 = conv(width, width, three, stride, one, bias=False), norm(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1, bias=False), norm(4 * width)
        self.downsample = None
        if stride != window(rank, 1) or inputs != 4 * width:
            shortcut = conv(inputs, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, norm(4 * width))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Residual network of bottlenecks; a ``block`` after every second of stages 2 and 3."""

    def __init__(self, depths=(3, 4, 6, 3), num_classes: int = 1000, block=None, rank: int = 2):
        super().__init__()
        stem = window(rank, 7), window(rank, 2), window(rank, 3, frames=0)
        self.conv1 = CONVOLUTIONS[rank](3, 64, *stem, bias=False)
        self.bn1 = NORMALISATIONS[rank](64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, depth in enumerate(depths, start=1):
            layers = collections.OrderedDict()
            for i in range(depth):
                width = 32 * 2**stage
                stride = 2 if i == 0 and stage > 1 else 1
                layers[str(i)] = Bottleneck(inputs, width, stride, rank)
                inputs = 4 * width
                if block is not None and stage in (2, 3) and i % 2:
                    layers[f"nl{i}"] = block(inputs)
            setattr(self, f"layer{stage}", nn.Sequential(layers))
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))
