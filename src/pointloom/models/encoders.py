"""What trackers see of a frame: the rule that resizes it, and encoders that several trackers share.

Resizing also says how positions move between pixels of the video and cells of a feature map, since the two belong
together. Encoders take images channels first and return maps channels first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pointloom.errors import OptionError
from pointloom.geometry import resize_aligned, resize_area

ResizeRule = Literal["stretch", "fit", "as_is"]
NORM_EPS = 1e-5
SMALL_MAP = 1024  # cells; below that PyTorch's group norm takes another way through maps whose channels are last
LONGEST_SHAPE = 8  # long side to short side, so that a frame of 1 x 1000 does not become one of 288 x 288000


@dataclass(frozen=True)
class Resizing:
    """How frames become the input of a CoTracker, and where its map of stride `stride` lies on them.

    rule        `stretch` resizes to `resolution`, corner pixel centres in place; `fit` brings the short side to that of
                `resolution` and keeps the shape (frames longer than 8 : 1 are squeezed to that); `as_is` takes frames
                of any size that the stride divides
    resolution  (height, width)
    largest     `fit` keeps a short side that is longer than that of `resolution` up to this; 0: it keeps none
    """

    rule: ResizeRule
    resolution: tuple[int, int]
    stride: int
    largest: int = 0

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) at which the network sees a video of this (width, height)."""
        height, width = self.resolution
        if self.rule == "stretch":
            return width, height
        if self.rule == "fit":
            unit = 2 * self.stride
            short = max(min(height, width), min(*size, self.largest))
            fitted = [min(side * short / min(size), LONGEST_SHAPE * short) for side in size]
            return max(round(fitted[0] / unit), 1) * unit, max(round(fitted[1] / unit), 1) * unit
        return size

    def resized(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
        """Bring images to the size at which the network sees them."""
        old = (images.shape[-1], images.shape[-2])
        width, height = self.input_size(old)
        if width % self.stride or height % self.stride:
            raise OptionError(
                f"frames of {width} x {height} do not divide by the model's stride {self.stride}. "
                f"Crop or resize them, or use a model that resizes by itself."
            )
        if (width, height) == old:
            return images
        if self.rule == "stretch":
            return F.interpolate(images, size=(height, width), mode="bilinear", align_corners=True)
        reduced = width < old[0] or height < old[1]  # else the filter changes nothing but the time
        return F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False, antialias=reduced)

    def to_cells(self, xy: Float[Tensor, "*A 2"], size: tuple[int, int]) -> Float[Tensor, "*A 2"]:
        """Pixels of a video of this (width, height) -> cells of the map. Divides by the stride, no half-pixel shift."""
        move = resize_aligned if self.rule == "stretch" else resize_area
        return move(xy, size, self.input_size(size)) / self.stride

    def to_pixels(self, cells: Float[Tensor, "*A 2"], size: tuple[int, int]) -> Float[Tensor, "*A 2"]:
        """Cells of the map -> pixels of a video of this (width, height)."""
        move = resize_aligned if self.rule == "stretch" else resize_area
        return move(cells * self.stride, self.input_size(size), size)


def instance_norm(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    """Zero mean and unit variance of each channel of each frame; no parameters.

    A group for each channel: ten times as fast as PyTorch's instance norm where channels are last, and they stay so.
    Of small maps whose channels are last that is slow; these are turned round.
    """
    if x.device.type == "cpu" and torch.is_grad_enabled():
        return _TrainedNorm.apply(x)  # type: ignore[no-untyped-call]
    return _normed(x)


def _normed(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    if x.shape[-2] * x.shape[-1] < SMALL_MAP and x.is_contiguous(memory_format=torch.channels_last):
        return F.group_norm(x.contiguous(), x.shape[1], eps=NORM_EPS).contiguous(memory_format=torch.channels_last)
    return F.group_norm(x, x.shape[1], eps=NORM_EPS)


class _TrainedNorm(torch.autograd.Function):
    """The norm with a backward pass frame by frame, so that what is read stays in the cache, and in float32.

    On a CPU PyTorch's own takes up to seven times as long in bfloat16, which was half the time of a training step.
    """

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Normalise."""
        ctx.save_for_backward(x)
        return _normed(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Return the slope of the input: what would shift or scale a channel as a whole is taken out."""
        (x,) = ctx.saved_tensors
        result = torch.empty_like(x)
        exact = torch.promote_types(x.dtype, torch.float32)
        for of_frame, frame, wanted in zip(result.split(1), x.split(1), slope.split(1), strict=True):
            y, up = _centred(frame.to(exact)), wanted.to(exact)
            scale = (y.square().mean(dim=(2, 3), keepdim=True) + NORM_EPS).rsqrt()
            y = y * scale
            of_frame.copy_((_centred(up) - y * (up * y).mean(dim=(2, 3), keepdim=True)) * scale)
        return result


def _centred(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    return x - x.mean(dim=(2, 3), keepdim=True)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ReLU on the branch before the sum and on the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride))

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D i j"]:
        """Return the map after the block."""
        y = F.relu(instance_norm(self.conv1(x)), inplace=True)
        y = F.relu(instance_norm(self.conv2(y)), inplace=True)
        shortcut = instance_norm(self.downsample(x)) if hasattr(self, "downsample") else x
        return F.relu(shortcut + y, inplace=True)


class ResidualEncoder(nn.Module):
    """CoTracker's encoder, in every version: four residual stages, resized to one size, concatenated and fused."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        D = channels
        stem, widths = D // 2, (D // 2, D // 4 * 3, D, D)
        self.stride = stride
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3)
        self.layer1 = self._stage(stem, widths[0], stride=1)
        self.layer2 = self._stage(widths[0], widths[1], stride=2)
        self.layer3 = self._stage(widths[1], widths[2], stride=2)
        self.layer4 = self._stage(widths[2], widths[3], stride=2)
        self.conv2 = nn.Conv2d(sum(widths), 2 * D, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * D, D, 1)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(ResidualBlock(inputs, outputs, stride), ResidualBlock(outputs, outputs, 1))

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C h w"]]:
        """Return one map, at 1/stride of the size."""
        size = (x.shape[-2] // self.stride, x.shape[-1] // self.stride)
        x = F.relu(instance_norm(self.conv1(x)), inplace=True)
        stages = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            stages.append(F.interpolate(x, size=size, mode="bilinear", align_corners=True))
        fused = torch.cat(stages, dim=1)
        return [self.conv3(F.relu(instance_norm(self.conv2(fused)), inplace=True))]


# ------------------------------------------------------------------------------------- TAPIR's encoder and resolutions

PRE_ACTIVATION_STRIDE = 8  # pixels in a cell of the coarsest maps of `PreActivationResNet`


class PreActivationBlock(nn.Module):
    """Norms and ReLUs before two 3x3 convolutions. The first block of a group also projects its shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, project: bool) -> None:
        super().__init__()
        self.stride = stride
        if project:
            self.proj_conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        self.bn_0 = nn.InstanceNorm2d(inputs, eps=1e-5, affine=True)  # in spite of its name
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride=stride, bias=False)
        self.conv_1 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn_1 = nn.InstanceNorm2d(outputs, eps=1e-5, affine=True)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D i j"]:
        """Return the map after the block. Strided convolutions are padded on the right and below only."""
        y = F.relu(self.bn_0(x))
        shortcut = self.proj_conv(y) if hasattr(self, "proj_conv") else x
        y = self.conv_0(F.pad(y, (1, 1, 1, 1) if self.stride == 1 else (0, 1, 0, 1)))
        return shortcut + self.conv_1(F.relu(self.bn_1(y)))


class PreActivationGroup(nn.Module):
    """Two residual blocks."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first = PreActivationBlock(inputs, outputs, stride, project=True)
        self.blocks = nn.ModuleList([first, PreActivationBlock(outputs, outputs, 1, project=False)])

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D i j"]:
        """Return the map after both blocks."""
        for block in self.blocks:
            x = block(x)
        return x


class PreActivationResNet(nn.Module):
    """The encoder of TAPIR and LocoTrack: a ResNet-18 without pooling, for images of multiples of 8."""

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d = widths
        self.initial_conv = nn.Conv2d(3, a, 7, stride=2, bias=False)
        self.block_groups = nn.ModuleList(
            PreActivationGroup(*sizes) for sizes in ((a, a, 1), (a, b, 2), (b, c, 2), (c, d, 1))
        )

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _C _h _w"]]:
        """Return the map after each group, at 1/2, 1/4, 1/8 and 1/8 of the size."""
        x = self.initial_conv(F.pad(x, (2, 3, 2, 3)))
        maps = []
        for group in self.block_groups:
            x = group(x)
            maps.append(x)
        return maps


def check_resolutions(sizes: Iterable[tuple[int, int]]) -> None:
    """Refuse a (height, width) that a `PreActivationResNet` cannot see."""
    unit = PRE_ACTIVATION_STRIDE
    for height, width in sizes:
        if height % unit or width % unit or max(height, width) < 2 * unit:
            raise OptionError(
                f"a resolution must be a multiple of {unit} in height and width, and one of them at least {2 * unit}; "
                f"got {height} x {width}."
            )


def stretched(images: Float[Tensor, "A 3 H W"], size: tuple[int, int]) -> Float[Tensor, "A 3 _h _w"]:
    """Resize images to (height, width), their corners in place; without a filter, as TAPIR and LocoTrack do."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def growing_resolutions(first: tuple[int, int], last: tuple[int, int]) -> list[tuple[int, int]]:
    """Multiples of 8 from one (height, width) to about another, each up to twice the one before."""
    steps = math.ceil(max(math.log2(b / a) for a, b in zip(first, last, strict=True)))
    if steps < 1:
        return [first]
    grown = [[a * (b / a) ** (i / steps) for a, b in zip(first, last, strict=True)] for i in range(steps + 1)]
    return [(_multiple(height), _multiple(width)) for height, width in grown]


def _multiple(side: float) -> int:
    return max(PRE_ACTIVATION_STRIDE * math.floor(side / PRE_ACTIVATION_STRIDE), PRE_ACTIVATION_STRIDE)


def resolutions_used(wanted: Sequence[tuple[int, int]], video: tuple[int, int]) -> list[tuple[int, int]]:
    """(height, width) at which a video is seen where these were asked for, one after the other.

    As released, the resolution *before* decides whether frames are resized: after that of the video they are not.
    """
    used: list[tuple[int, int]] = []
    previous = None
    for asked in wanted:
        if asked == previous:
            used.append(used[-1])
        else:
            used.append(video if previous == video else asked)
        previous = asked
    return used
