# SPDX-License-Identifier: Apache-2.0
"""Attention between positions and bilinear attention, as published: with their full matrices."""

import torch
from torch import nn


class NonLocal(nn.Module):
    """Embedded Gaussian: softmax over all pairs of positions."""

    def __init__(self, features: int):
        super().__init__()
        inner = features // 2
        self.t, self.p, self.g = (nn.Conv2d(features, inner, 1) for _ in range(3))
        self.z = nn.Conv2d(inner, features, 1)
        self.bn = nn.BatchNorm2d(features)

    def forward(self, x):
        t, p, g = (f(x).flatten(2) for f in (self.t, self.p, self.g))
        scores = torch.bmm(t.transpose(1, 2), p) / t.shape[1] ** 0.5
        y = torch.bmm(g, scores.softmax(-1).transpose(1, 2))
        return x + self.bn(self.z(y.reshape(x.shape[0], -1, *x.shape[2:])))


class BilinearTransform(nn.Module):
    """Row and column matrices from the map, multiplied on, and a 1x1 convolution."""

    def __init__(self, features: int, s: int = 7, k: int = 4):
        super().__init__()
        self.s, self.k = s, k
        self.conv1 = nn.Sequential(nn.Conv2d(features, k, 1), nn.BatchNorm2d(k), nn.ReLU())
        self.conv_p = nn.Conv2d(k, k * s * s, (s, 1))
        self.conv_q = nn.Conv2d(k, k * s * s, (1, s))
        self.conv2 = nn.Sequential(
            nn.Conv2d(features, features, 1), nn.BatchNorm2d(features), nn.ReLU()
        )

    def forward(self, x):
        n, c, h, w = x.shape
        s, k = self.s, self.k
        z = self.conv1(x)
        p = self.conv_p(nn.functional.adaptive_max_pool2d(z, (s, 1))).reshape(n, k, s, s).sigmoid()
        q = self.conv_q(nn.functional.adaptive_max_pool2d(z, (1, s))).reshape(n, k, s, s).sigmoid()
        p, q = p / p.sum(3, keepdim=True), q / q.sum(2, keepdim=True)
        p, q = (self.expanded(a, size, c) for a, size in ((p, h), (q, w)))
        y = p @ x.reshape(n * c, h, w) @ q
        return self.conv2(y.reshape(n, c, h, w))

    def expanded(self, matrices, size, channels):
        """Kronecker product with the identity, one matrix for each channel."""
        n, k, s, _ = matrices.shape
        t = size // s
        eye = torch.eye(t, dtype=matrices.dtype, device=matrices.device)
        full = matrices[:, :, :, None, :, None] * eye[:, None, :]
        full = full.reshape(n, k, 1, size, size).repeat(1, 1, channels // k, 1, 1)
        return full.reshape(n * channels, size, size)


class BilinearAttention(nn.Module):
    """Bottleneck around the bilinear transform, beside the identity."""

    def __init__(self, features: int, r: int = 2, s: int = 7, k: int = 4):
        super().__init__()
        inner = features // r
        self.conv1 = nn.Sequential(nn.Conv2d(features, inner, 1), nn.BatchNorm2d(inner), nn.ReLU())
        self.batransform = BilinearTransform(inner, s, k)
        self.conv2 = nn.Sequential(
            nn.Conv2d(inner, features, 1), nn.BatchNorm2d(features), nn.ReLU()
        )

    def forward(self, x):
        return x + self.conv2(self.batransform(self.conv1(x)))
