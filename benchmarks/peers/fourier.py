# SPDX-License-Identifier: Apache-2.0
"""Fast Fourier convolution and the blocks of spectral residual learning, as published."""

import torch
from torch import nn


def packed(z: torch.Tensor) -> torch.Tensor:
    """Complex ``[N, C, H, W']`` to real ``[N, 2C, H, W']``, real and imaginary part in turn."""
    return torch.view_as_real(z).permute(0, 1, 4, 2, 3).flatten(1, 2)


def unpacked(s: torch.Tensor) -> torch.Tensor:
    parts = s.unflatten(1, (-1, 2)).float()  # there is no complex number of 16 bits
    return torch.view_as_complex(parts.permute(0, 1, 3, 4, 2).contiguous())


class FourierUnit(nn.Module):
    """Spectrum, 1x1 convolution, normalisation, ReLU, inverse."""

    def __init__(self, inputs: int, outputs: int, groups: int = 1):
        super().__init__()
        self.conv_layer = nn.Conv2d(2 * inputs, 2 * outputs, 1, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(2 * outputs)

    def forward(self, x):
        s = packed(torch.fft.rfft2(x.float(), norm="ortho")).to(x.dtype)
        s = torch.relu(self.bn(self.conv_layer(s)))
        return torch.fft.irfft2(unpacked(s), s=x.shape[-2:], norm="ortho").to(x.dtype)


class SpectralTransform(nn.Module):
    """The global path: pooling, 1x1 convolution, Fourier units, 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, lfu: bool = True):
        super().__init__()
        half = outputs // 2
        self.downsample = nn.AvgPool2d(2, 2) if stride == 2 else nn.Identity()
        convolution = nn.Conv2d(inputs, half, 1, bias=False)
        self.conv1 = nn.Sequential(convolution, nn.BatchNorm2d(half), nn.ReLU(inplace=True))
        self.fu = FourierUnit(half, half)
        self.lfu = FourierUnit(half, half) if lfu else None
        self.conv2 = nn.Conv2d(half, outputs, 1, bias=False)

    def forward(self, x):
        x = self.conv1(self.downsample(x))
        y = x + self.fu(x)
        if self.lfu is not None:
            c, h, w = x.shape[1] // 4, x.shape[2] // 2, x.shape[3] // 2
            rows = torch.cat(torch.split(x[:, :c], h, 2), 1)
            quarters = torch.cat(torch.split(rows, w, 3), 1).contiguous()
            y = y + self.lfu(quarters).repeat(1, 1, 2, 2).contiguous()
        return self.conv2(y)


class FFC(nn.Module):
    """Four paths between local and global channels."""

    def __init__(
        self,
        inputs,
        outputs,
        kernel,
        ratio_in,
        ratio_out,
        stride=1,
        lfu=True,
        padding=None,
        padding_mode="zeros",
    ):
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        global_in, global_out = int(inputs * ratio_in), int(outputs * ratio_out)
        local_in, local_out = inputs - global_in, outputs - global_out

        def path(a, b):
            if not (a and b):
                return None
            options = dict(padding=padding, padding_mode=padding_mode, bias=False)
            return nn.Conv2d(a, b, kernel, stride, **options)

        self.convl2l, self.convl2g = path(local_in, local_out), path(local_in, global_out)
        self.convg2l = path(global_in, local_out)
        self.convg2g = None
        if global_in and global_out:
            self.convg2g = SpectralTransform(global_in, global_out, stride, lfu)

    def forward(self, pair):
        local, far = pair
        terms = [
            [f(a) for f, a in paths if f is not None and a is not None]
            for paths in (
                ((self.convl2l, local), (self.convg2l, far)),
                ((self.convl2g, local), (self.convg2g, far)),
            )
        ]
        return tuple(sum(t[1:], t[0]) if t else None for t in terms)


class FFCNormAct(nn.Module):
    """FFC with a normalisation and ReLU on each path; a map that is no pair is all local."""

    def __init__(self, inputs, outputs, kernel, ratio_in, ratio_out, act=True, **options):
        super().__init__()
        self.ffc = FFC(inputs, outputs, kernel, ratio_in, ratio_out, **options)
        far = int(outputs * ratio_out)
        self.bn_l = nn.BatchNorm2d(outputs - far) if outputs > far else None
        self.bn_g = nn.BatchNorm2d(far) if far else None
        self.act = act

    def forward(self, pair):
        pair = self.ffc(pair if isinstance(pair, tuple) else (pair, None))
        pair = [
            None if a is None else n(a) for a, n in zip(pair, (self.bn_l, self.bn_g), strict=True)
        ]
        return tuple(a if a is None or not self.act else torch.relu(a) for a in pair)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 FFCs beside a shortcut."""

    def __init__(self, inputs, width, ratio_in, ratio_out, stride, lfu):
        super().__init__()
        out, both = 4 * width, (ratio_out, ratio_out)
        self.conv1 = FFCNormAct(inputs, width, 1, ratio_in, ratio_out, lfu=lfu)
        self.conv2 = FFCNormAct(width, width, 3, *both, stride=stride, lfu=lfu)
        self.conv3 = FFCNormAct(width, out, 1, *both, act=False, lfu=lfu)
        self.downsample = None
        if stride != 1 or inputs != out or ratio_in != ratio_out:
            self.downsample = FFCNormAct(
                inputs, out, 1, ratio_in, ratio_out, act=False, stride=stride, lfu=lfu
            )

    def forward(self, pair):
        y = self.conv3(self.conv2(self.conv1(pair)))
        shortcut = pair if self.downsample is None else self.downsample(pair)
        return tuple(
            None if a is None else torch.relu(a + b) for a, b in zip(y, shortcut, strict=True)
        )


class FFCResNet(nn.Module):
    """ResNet of FFCs; the last stage is all local."""

    def __init__(self, depths=(3, 4, 6, 3), ratio=0.5, lfu=True, num_classes=1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs, ratio_in = 64, 0.0
        for stage, depth in enumerate(depths, start=1):
            ratio_out = ratio if stage < len(depths) else 0.0
            blocks = []
            for i in range(depth):
                width, stride = 32 * 2**stage, 2 if i == 0 and stage > 1 else 1
                blocks.append(Bottleneck(inputs, width, ratio_in, ratio_out, stride, lfu))
                inputs, ratio_in = 4 * width, ratio_out
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x):
        pair = self.maxpool(torch.relu(self.bn1(self.conv1(x)))), None
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            pair = stage(pair)
        return self.fc(pair[0].mean((2, 3)))


class FourierBlock(nn.Module):
    """Spectral residual block: x plus a gate times the inverse of a convolved spectrum."""

    def __init__(self, features: int, groups: int = 8):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1))
        self.conv_layer = nn.Conv2d(2 * features, 2 * features, 1, groups=groups)
        self.bn = nn.BatchNorm2d(2 * features)

    def forward(self, x):
        s = packed(torch.fft.rfft2(x.float())).to(x.dtype)
        s = torch.relu(self.bn(self.conv_layer(s)))
        y = torch.fft.irfft2(unpacked(s), s=x.shape[-2:]).to(x.dtype)
        return x + self.alpha * y


class OrthogonalBlock(nn.Module):
    """Spectral residual block of learned matrices, made orthogonal again by QR in every call."""

    def __init__(self, features: int, size: tuple[int, int], groups: int = 2):
        super().__init__()
        self.source_P, self.source_Q = (
            nn.Parameter(torch.linalg.qr(torch.randn(n, n)).Q) for n in size
        )
        self.conv_layer = nn.Conv2d(features, features, 1, groups=groups)
        self.bn = nn.BatchNorm2d(features)

    def forward(self, x):
        p, q = self.source_P, self.source_Q
        with torch.no_grad():
            for matrix in (p, q):
                matrix.copy_(torch.linalg.qr(matrix).Q)
        s = torch.relu(self.bn(self.conv_layer(p @ x @ q)))
        return x + p.T @ s @ q.T
