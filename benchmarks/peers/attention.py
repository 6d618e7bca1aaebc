# SPDX-License-Identifier: Apache-2.0
"""Attention of images between positions, and bilinear, as published: with their full matrices."""

import torch
from torch import nn


def kronecker(matrices: torch.Tensor, times: int) -> torch.Tensor:
    """Kronecker products with the identity: ``[..., s, s]`` to ``[..., s * times, s * times]``."""
    *batch, s, _ = matrices.shape
    eye = torch.eye(times, dtype=matrices.dtype, device=matrices.device)
    full = matrices[..., :, None, :, None] * eye[:, None, :]
    return full.reshape(*batch, s * times, s * times)


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
        full = kronecker(matrices, size // s)[:, :, None].repeat(1, 1, channels // k, 1, 1)
        return full.reshape(n * channels, *full.shape[-2:])


class BilinearAttention(nn.Module):
    """Bottleneck around the bilinear transform, beside the identity."""

    def __init__(self, features: int, r: int = 2, s: int = 7, k: int = 4, dropout: float = 0.0):
        super().__init__()
        inner = features // r
        self.conv1 = nn.Sequential(nn.Conv2d(features, inner, 1), nn.BatchNorm2d(inner), nn.ReLU())
        self.batransform = BilinearTransform(inner, s, k)
        self.conv2 = nn.Sequential(
            nn.Conv2d(inner, features, 1), nn.BatchNorm2d(features), nn.ReLU()
        )
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x):
        return x + self.dropout(self.conv2(self.batransform(self.conv1(x))))


class DoubleAttention(nn.Module):
    """Descriptors gathered over all positions and spread again, both by softmax over positions."""

    def __init__(self, features: int):
        super().__init__()
        inner = features // 4
        self.convA, self.convB, self.convV = (nn.Conv2d(features, inner, 1) for _ in range(3))
        self.conv_expand = nn.Conv2d(inner, features, 1)
        self.bn = nn.BatchNorm2d(features)

    def forward(self, x):
        a, b, v = (f(x).flatten(2) for f in (self.convA, self.convB, self.convV))
        descriptors = a @ b.softmax(2).transpose(1, 2)
        y = (descriptors @ v.softmax(2)).reshape(x.shape[0], -1, *x.shape[2:])
        return x + self.bn(self.conv_expand(y))


class CompactNonLocal(nn.Module):
    """Dot products over channels and positions at once, one group of channels after the other."""

    def __init__(self, features: int, groups: int = 8):
        super().__init__()
        inner = features // 2
        self.t, self.p, self.g = (nn.Conv2d(features, inner, 1, bias=False) for _ in range(3))
        self.z = nn.Conv2d(inner, features, 1, groups=groups, bias=False)
        self.gn = nn.GroupNorm(groups, features)
        self.groups = groups

    def forward(self, x):
        parts = (f(x).chunk(self.groups, 1) for f in (self.t, self.p, self.g))
        y = torch.cat([self.attended(*part) for part in zip(*parts, strict=True)], 1)
        return x + self.gn(self.z(y))

    def attended(self, t, p, g):
        long, p, g = (a.reshape(a.shape[0], 1, -1) for a in (t, p, g))
        return torch.bmm(torch.bmm(p, g.transpose(1, 2)), long).reshape(t.shape)


class CrissCrossAttention(nn.Module):
    """One softmax over the row and the column of each pixel, which itself counts once."""

    def __init__(self, features: int):
        super().__init__()
        inner = features // 8
        self.query_conv, self.key_conv = (
            nn.Conv2d(features, inner, 1),
            nn.Conv2d(features, inner, 1),
        )
        self.value_conv = nn.Conv2d(features, features, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        n, c, h, w = x.shape
        q, k, v = self.query_conv(x), self.key_conv(x), self.value_conv(x)

        def rows(a):
            return a.permute(0, 2, 3, 1).reshape(n * h, w, -1)

        def columns(a):
            return a.permute(0, 3, 2, 1).reshape(n * w, h, -1)

        across = torch.bmm(rows(q), rows(k).transpose(1, 2)).reshape(n, h, w, w)
        down = torch.bmm(columns(q), columns(k).transpose(1, 2)).reshape(n, w, h, h).transpose(1, 2)
        itself = torch.eye(h, dtype=torch.bool, device=x.device)[:, None]
        down = down.masked_fill(itself, -torch.inf)
        down, across = torch.cat((down, across), 3).softmax(3).split((h, w), 3)
        of_rows = torch.bmm(across.reshape(n * h, w, w), rows(v)).reshape(n, h, w, c)
        of_columns = torch.bmm(down.transpose(1, 2).reshape(n * w, h, h), columns(v))
        of_columns = of_columns.reshape(n, w, h, c).transpose(1, 2)
        return x + self.gamma * (of_rows + of_columns).permute(0, 3, 1, 2)


class RecurrentCrissCross(nn.Module):
    """Two applications of one criss-cross attention between 3x3 convolutions, and the sum."""

    def __init__(self, features: int):
        super().__init__()
        inner = features // 4

        def convolution(a, b):
            layers = nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU()
            return nn.Sequential(*layers)

        self.conva, self.convb = convolution(features, inner), convolution(inner, features)
        self.cca = CrissCrossAttention(inner)

    def forward(self, x):
        return x + self.convb(self.cca(self.cca(self.conva(x))))
