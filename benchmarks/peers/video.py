# SPDX-License-Identifier: Apache-2.0
"""C2D and bilinear attention of videos, as published."""

import torch
from torch import nn

from benchmarks.peers.attention import kronecker
from benchmarks.peers.resnet import ResNet


def merged(logits: torch.Tensor) -> torch.Tensor:
    """Means of windows along the diagonal: ``[n, k, s, s, t, v]`` to ``[n, k, m, m, t]``."""
    n, k, s, _, t, windows = logits.shape
    if windows == 1:
        return logits[..., 0]
    size = s + windows - 1
    total, count = logits.new_zeros(n, k, size, size, t), logits.new_zeros(size, size, 1)
    for i in range(windows):
        total[:, :, i : i + s, i : i + s] += logits[..., i]
        count[i : i + s, i : i + s] += 1
    return total / count.clamp(min=1)


class BilinearTransform(nn.Module):
    """Matrices of rows and columns for each frame, and of frames, multiplied on one by one."""

    def __init__(self, features: int, s: int = 7, ts: int = 4, k: int = 4, tk: int = 1):
        super().__init__()
        self.s, self.ts, self.k, self.tk = s, ts, k, tk
        self.conv1 = nn.Sequential(nn.Conv3d(features, k, 1), nn.BatchNorm3d(k), nn.ReLU())
        self.conv_p = nn.Conv3d(k, k * s * s, (1, s, 1))
        self.conv_q = nn.Conv3d(k, k * s * s, (1, 1, s))
        if tk:
            self.conv_t = nn.Conv3d(k, tk * ts * ts, (ts, 1, 1))
        self.conv2 = nn.Sequential(
            nn.Conv3d(features, features, 1), nn.BatchNorm3d(features), nn.ReLU()
        )

    def forward(self, x):
        n, c, t, h, w = x.shape
        k, s = self.k, self.s
        size = h // (h // s)
        z = self.conv1(x)
        p = self.conv_p(nn.functional.adaptive_max_pool3d(z, (t, size, 1)))
        q = self.conv_q(nn.functional.adaptive_max_pool3d(z, (t, 1, size)))
        p, q = (merged(a.reshape(n, k, s, s, t, -1)) for a in (p, q))
        y = self.expanded(p.softmax(3), h, c) @ x @ self.expanded(q.softmax(2), w, c)
        return self.conv2(self.mixed(y, z) if self.tk else y)

    def expanded(self, matrices, size, channels):
        """Kronecker product with the identity, one matrix for each channel and frame."""
        full = matrices.permute(0, 1, 4, 2, 3).repeat_interleave(channels // self.k, 1)
        return kronecker(full, size // full.shape[-1])

    def mixed(self, y, z):
        """Frames times their matrix, one copy of it for each channel and position."""
        n, c, t, h, w = y.shape
        ts, tk = self.ts, self.tk
        matrices = self.conv_t(nn.functional.adaptive_avg_pool3d(z, (ts, 1, 1)))
        matrices = matrices.reshape(n, tk, 1, 1, ts, ts).softmax(5)
        matrices = matrices.expand(n, tk, c // tk, h * w, ts, ts).reshape(n, c, h * w, ts, ts)
        y = y.permute(0, 1, 3, 4, 2).reshape(n, c, h * w, t, 1)
        y = kronecker(matrices, t // ts) @ y
        return y.reshape(n, c, h, w, t).permute(0, 1, 4, 2, 3)


class BilinearAttention(nn.Module):
    """Bottleneck around the bilinear transform, beside the identity."""

    def __init__(self, features: int, r: int = 2, dropout: float = 0.0, **options):
        super().__init__()
        inner = features // r
        self.conv1 = nn.Sequential(nn.Conv3d(features, inner, 1), nn.BatchNorm3d(inner), nn.ReLU())
        self.batransform = BilinearTransform(inner, **options)
        self.conv2 = nn.Sequential(
            nn.Conv3d(inner, features, 1), nn.BatchNorm3d(features), nn.ReLU()
        )
        self.dropout = nn.Dropout3d(dropout)

    def forward(self, x):
        return x + self.dropout(self.conv2(self.batransform(self.conv1(x))))


class C2D(ResNet):
    """ResNet on each frame, half the frames after its first stage; a head that slides."""

    def __init__(self, num_classes: int = 400, block=None):
        super().__init__(block=block, rank=3)
        self.maxpool = nn.MaxPool3d((1, 3, 3), (1, 2, 2))
        self.temp_pool = nn.MaxPool3d((2, 1, 1))
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Conv3d(self.fc.in_features, num_classes, 1)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.temp_pool(self.layer1(x))))
        x = self.layer4(x)
        x = nn.functional.avg_pool3d(x, (x.shape[2], 7, 7), stride=1)
        return self.fc(self.dropout(x)).mean((2, 3, 4))
