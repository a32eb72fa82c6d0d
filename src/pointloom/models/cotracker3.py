"""CoTracker3: tracking points jointly by iterative updates of their tokens (Karaev et al. 2024), offline and online.

One network. Offline and online are two values of one configuration and differ in how a driver moves it over a video
(`pointloom.tracking`): the offline model sees all frames at once, the online model a window of 16 that advances by 8.

From top to bottom: configuration, encoders of a frame, the transformer, and the model with its three functions.

    frames --encode--> pyramid of feature maps
    query  --describe--> patches of features around it, one a level
    estimate --iterate--> 4D correlation of query patches with patches around the estimate -> tokens -> transformer
                          -> a better estimate, `iterations` times

Keys and shapes of the state dict are those of the official checkpoints. Axes: B videos, T frames, N points, V virtual
tracks, C channels, L levels, P positions of a patch's side, D width of a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from pointloom.errors import OptionError
from pointloom.geometry import resize_aligned, resize_area
from pointloom.models.base import Estimate, FrameFeatures, Mode, Model, ModelInfo, PointFeatures
from pointloom.models.layers import (
    CrossAttentionBlock,
    Mlp,
    SelfAttentionBlock,
    correlation_volume,
    fourier_embedding,
    resampled_time,
    sample_patches,
    time_table,
    unit_length,
)

DISPLACEMENT_FREQUENCIES = 10
PEAK_NUMBERS = 4  # mean x, mean y, largest probability, largest similarity
PEAK_TEMPERATURE = 20.0


@dataclass(frozen=True)
class CoTracker3Config:
    """Every size of the network. The defaults are the released offline configuration."""

    # how it is driven
    modes: tuple[Mode, ...] = ("full",)
    window: int = 60  # frames of a window; also the rows of the time table
    step: int = 60  # new frames of a window
    iterations: int = 6

    # what it sees: `stretch` resizes to `resolution`, corner pixel centres in place; `fit` keeps the shape and brings
    # the short side to that of `resolution`; `as_is` takes frames of any size that the stride divides
    resize: Literal["stretch", "fit", "as_is"] = "stretch"
    resolution: tuple[int, int] = (384, 512)  # (height, width); also the unit of the displacements in the tokens

    # encoder
    encoder: Literal["residual", "light"] = "residual"
    stride: int = 4
    channels: int = 128
    fine_channels: int = 0  # > 0 adds a map at half the stride in front of the pyramid (not in the paper)

    # correlation
    levels: int = 4
    radius: int = 3  # positions around the estimate: (2 radius + 1)^2
    support_radius: int = 3  # and around the query
    correlation_hidden: int = 384
    correlation_width: int = 256
    peaks: bool = False  # adds where each level's correlation peaks to the token (not in the paper)

    # transformer
    hidden: int = 384
    heads: int = 8
    mlp_ratio: int = 4
    time_depth: int = 3
    space_depth: int = 3
    virtual_tracks: int = 64
    space_attention: bool = True
    separate_heads: bool = True  # visibility and confidence have their own last layer

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work together."""
        if not 0 < self.step <= self.window:
            raise OptionError(f"step must lie in 1..{self.window} (the window), got {self.step}.")
        if self.hidden % self.heads:
            raise OptionError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads}).")
        if self.space_attention and (self.virtual_tracks < 1 or self.time_depth % self.space_depth):
            raise OptionError(
                f"space attention needs virtual tracks (got {self.virtual_tracks}) and a time depth "
                f"({self.time_depth}) that is a multiple of the space depth ({self.space_depth})."
            )
        if self.fine_channels and self.encoder != "light":
            raise OptionError("fine_channels needs encoder='light'.")

    @property
    def all_levels(self) -> int:
        """Feature maps that are correlated."""
        return self.levels + (self.fine_channels > 0)

    @property
    def token_width(self) -> int:
        """Two logits, the correlation, the displacements (and the peaks)."""
        displacement = 4 + 2 * 4 * DISPLACEMENT_FREQUENCIES
        per_level = self.correlation_width + PEAK_NUMBERS * self.peaks
        return 2 + self.all_levels * per_level + displacement

    @property
    def volume_width(self) -> int:
        """Numbers in the 4D correlation of one level."""
        return ((2 * self.radius + 1) * (2 * self.support_radius + 1)) ** 2


OFFLINE = CoTracker3Config()
ONLINE = CoTracker3Config(modes=("windowed",), window=16, step=8)
TINY = CoTracker3Config(
    modes=("windowed", "full"),
    window=16,
    step=8,
    iterations=4,
    resize="fit",
    resolution=(288, 384),
    encoder="light",
    channels=64,
    fine_channels=16,
    support_radius=1,
    correlation_hidden=128,
    correlation_width=64,
    peaks=True,
    hidden=128,
    heads=4,
    time_depth=2,
    space_depth=2,
    virtual_tracks=0,
    space_attention=False,
)


# ---------------------------------------------------------------------------------------------------------- encoders


def instance_norm(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    """Zero mean and unit variance of each channel of each frame; no parameters."""
    return F.instance_norm(x, eps=1e-5)


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
        y = F.relu(instance_norm(self.conv1(x)))
        y = F.relu(instance_norm(self.conv2(y)))
        shortcut = instance_norm(self.downsample(x)) if hasattr(self, "downsample") else x
        return F.relu(shortcut + y)


class ResidualEncoder(nn.Module):
    """The encoder of the paper: four residual stages, resized to one size, concatenated and fused."""

    def __init__(self, config: CoTracker3Config) -> None:
        super().__init__()
        D = config.channels
        stem, widths = D // 2, (D // 2, D // 4 * 3, D, D)
        self.stride = config.stride
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
        x = F.relu(instance_norm(self.conv1(x)))
        stages = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            stages.append(F.interpolate(x, size=size, mode="bilinear", align_corners=True))
        fused = torch.cat(stages, dim=1)
        return [self.conv3(F.relu(instance_norm(self.conv2(fused))))]


def doubled(x: Float[Tensor, "B C h w"], size: Sequence[int]) -> Float[Tensor, "B C i j"]:
    """Enlarge a map by two so that old cell k lies on new cell 2k, as strided convolutions left them."""
    h, w = 2 * x.shape[-2] - 1, 2 * x.shape[-1] - 1
    x = F.interpolate(x, size=(h, w), mode="bilinear", align_corners=True)
    return F.pad(x, (0, size[1] - w, 0, size[0] - h), mode="replicate")


class LightEncoder(nn.Module):
    """A third of the cost of a residual encoder of the same width: a short stem, sums in place of concatenation.

    Optionally a second map, twice as fine, for positions well under one cell of the first: its four values for each
    cell are computed at the coarser size, where convolutions are cheap.
    """

    WIDTHS = (24, 48, 96, 128)  # at 1/2, 1/4, 1/8, 1/16 of the size

    def __init__(self, config: CoTracker3Config) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth = self.WIDTHS
        C = config.channels
        self.stem1 = nn.Conv2d(3, half, 5, stride=2, padding=2)
        self.stem2 = nn.Conv2d(half, quarter, 3, stride=2, padding=1)
        self.layer1 = ResidualBlock(quarter, quarter, 1)
        self.layer2 = nn.Sequential(ResidualBlock(quarter, eighth, 2), ResidualBlock(eighth, eighth, 1))
        self.layer3 = nn.Sequential(ResidualBlock(eighth, sixteenth, 2), ResidualBlock(sixteenth, sixteenth, 1))
        self.lateral = nn.ModuleList(nn.Conv2d(width, C, 1) for width in (quarter, eighth, sixteenth))
        self.head1 = nn.Conv2d(C, C, 3, padding=1)
        self.head2 = nn.Conv2d(C, C, 1)
        if config.fine_channels:
            self.fine = nn.Sequential(nn.Conv2d(quarter, 4 * config.fine_channels, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C h w"]]:
        """Return the map at 1/4 of the size, and before it the one at 1/2 if there is one."""
        x = F.relu(instance_norm(self.stem1(x)))
        quarter = self.layer1(F.relu(instance_norm(self.stem2(x))))
        eighth = self.layer2(quarter)
        sixteenth = self.layer3(eighth)
        total = self.lateral[2](sixteenth)
        for lateral, stage in zip((self.lateral[1], self.lateral[0]), (eighth, quarter), strict=True):
            total = lateral(stage) + doubled(total, stage.shape[-2:])
        maps = [self.head2(F.relu(self.head1(F.relu(instance_norm(total)))))]
        return [self.fine(quarter), *maps] if hasattr(self, "fine") else maps


ENCODERS = {"residual": ResidualEncoder, "light": LightEncoder}


# ------------------------------------------------------------------------------------------------------- transformer


class UpdateFormer(nn.Module):
    """Attention along time for each track, and across tracks, in each frame, by way of a few learned virtual tracks."""

    def __init__(self, config: CoTracker3Config) -> None:
        super().__init__()
        D, heads, ratio = config.hidden, config.heads, config.mlp_ratio
        self.space_every = config.time_depth // config.space_depth if config.space_attention else 0
        if config.virtual_tracks:
            self.virual_tracks = nn.Parameter(
                torch.randn(1, config.virtual_tracks, 1, D)
            )  # the official key, so spelled
        self.input_transform = nn.Linear(config.token_width, D)
        self.flow_head = nn.Linear(D, 2 if config.separate_heads else 4)
        if config.separate_heads:
            self.vis_conf_head = nn.Linear(D, 2)
        self.time_blocks = nn.ModuleList(SelfAttentionBlock(D, heads, ratio) for _ in range(config.time_depth))
        if config.space_attention:
            depth = range(config.space_depth)
            self.space_virtual_blocks = nn.ModuleList(SelfAttentionBlock(D, heads, ratio) for _ in depth)
            self.space_point2virtual_blocks = nn.ModuleList(CrossAttentionBlock(D, heads, ratio) for _ in depth)
            self.space_virtual2point_blocks = nn.ModuleList(CrossAttentionBlock(D, heads, ratio) for _ in depth)

    def forward(
        self, tokens: Float[Tensor, "B N T W"], attended: Bool[Tensor, "B T N"] | None = None
    ) -> Float[Tensor, "B N T 4"]:
        """Return updates of x and y (in cells of the first map), of the visibility and of the confidence logit."""
        B, N, T, _ = tokens.shape
        x = self.input_transform(tokens)
        if self.space_every:
            x = torch.cat([x, self.virual_tracks.expand(B, -1, T, -1).to(x.dtype)], dim=1)  # (B, N+V, T, D)
        for i, time_block in enumerate(self.time_blocks):
            x = time_block(x.flatten(0, 1)).unflatten(0, (B, -1))
            if self.space_every and i % self.space_every == 0:
                x = self._across_tracks(x, N, i // self.space_every, attended)
        x = x[:, :N]
        heads = [self.flow_head(x)]
        if hasattr(self, "vis_conf_head"):
            heads.append(self.vis_conf_head(x))
        return torch.cat(heads, dim=-1)

    def _across_tracks(
        self, x: Float[Tensor, "B M T D"], points: int, layer: int, attended: Bool[Tensor, "B T N"] | None
    ) -> Float[Tensor, "B M T D"]:
        B = len(x)
        frames = x.transpose(1, 2).flatten(0, 1)  # (B*T, N+V, D)
        point, virtual = frames[:, :points], frames[:, points:]
        mask = None if attended is None else attended.flatten(0, 1)
        virtual = self.space_virtual2point_blocks[layer](virtual, point, mask)
        virtual = self.space_virtual_blocks[layer](virtual)
        point = self.space_point2virtual_blocks[layer](point, virtual)
        return torch.cat([point, virtual], dim=1).unflatten(0, (B, -1)).transpose(1, 2)


# ------------------------------------------------------------------------------------------------------------- model


class CoTracker3(Model):
    """The tracker. `encode`, `describe`, `refine`: see `pointloom.models.base`."""

    time_emb: Tensor

    def __init__(self, config: CoTracker3Config) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("time_emb", time_table(config.window, config.token_width))
        self.fnet = ENCODERS[config.encoder](config)
        self.updateformer = UpdateFormer(config)
        self.corr_mlp = Mlp(config.volume_width, config.correlation_hidden, config.correlation_width, "none")

    @property
    def info(self) -> ModelInfo:
        """What a driver needs to know."""
        c = self.config
        return ModelInfo(
            family="CoTracker3",
            modes=c.modes,
            window=c.window,
            step=c.step,
            iterations=c.iterations,
            outputs=("visibility", "confidence"),
            parameters=sum(p.numel() for p in self.parameters()),
            code_licence="Apache-2.0",
            weights_licence="unknown",
            citation="Karaev et al. 2024, CoTracker3: Simpler and Better Point Tracking by Pseudo-Labelling Videos",
        )

    # ---- encode

    def encode(self, frames: UInt8[Tensor, "B T H W 3"] | Float[Tensor, "B T H W 3"], start: int = 0) -> FrameFeatures:
        """Compute the feature pyramid of each frame (RGB, 0..255)."""
        B, T, H, W, _ = frames.shape
        images = self.resized(frames.flatten(0, 1).movedim(-1, 1))  # (B*T, 3, h, w)
        maps = [unit_length(m.movedim(1, -1)) for m in self.fnet(2 * (images / 255) - 1)]
        for _ in range(self.config.levels - 1):
            maps.append(F.avg_pool2d(maps[-1].movedim(-1, 1), 2).movedim(1, -1))
        return FrameFeatures(
            tuple(m.contiguous().unflatten(0, (B, T)) for m in maps),
            size=(W, H),
            input=(images.shape[-1], images.shape[-2]),
            start=start,
        )

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) at which the network sees a video of this (width, height)."""
        height, width = self.config.resolution
        if self.config.resize == "stretch":
            return width, height
        if self.config.resize == "fit":
            scale = min(height, width) / min(size)
            unit = 2 * self.config.stride
            return max(round(size[0] * scale / unit), 1) * unit, max(round(size[1] * scale / unit), 1) * unit
        return size

    def resized(self, images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
        """Bring images to the size at which the network sees them."""
        images = images.to(self.time_emb.dtype)
        old = (images.shape[-1], images.shape[-2])
        width, height = self.input_size(old)
        if width % self.config.stride or height % self.config.stride:
            raise OptionError(
                f"frames of {width} x {height} do not divide by the model's stride {self.config.stride}. "
                f"Crop or resize them, or use a model that resizes by itself."
            )
        if (width, height) == old:
            return images
        if self.config.resize == "stretch":
            return F.interpolate(images, size=(height, width), mode="bilinear", align_corners=True)
        return F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False, antialias=True)

    def _cells(self, xy: Tensor, features: FrameFeatures) -> Tensor:
        """Pixels of the video -> cells of the stride-`stride` map. A division by the stride, no half-pixel shift."""
        move = resize_aligned if self.config.resize == "stretch" else resize_area
        return move(xy, features.size, features.input) / self.config.stride

    def _pixels(self, cells: Tensor, features: FrameFeatures) -> Tensor:
        """Cells of the stride-`stride` map -> pixels of the video."""
        move = resize_aligned if self.config.resize == "stretch" else resize_area
        return move(cells * self.config.stride, features.input, features.size)

    def _level_scales(self) -> list[float]:
        """Cells of each map in one cell of the stride-`stride` map, again without half-pixel shifts."""
        scales = [0.5**level for level in range(self.config.levels)]
        return [2.0, *scales] if self.config.fine_channels else scales

    # ---- describe

    def describe(self, features: FrameFeatures, queries: Float[Tensor, "B N 3"]) -> PointFeatures:
        """Take the patch of features around each query at every level."""
        frame = queries[..., 0].long() - features.start
        cells = self._cells(queries[..., 1:], features)
        support = tuple(
            sample_patches(m, frame, cells * scale, self.config.support_radius)
            for m, scale in zip(features.maps, self._level_scales(), strict=True)
        )
        return PointFeatures(queries, support)

    # ---- refine

    def iterate(
        self,
        features: FrameFeatures,
        points: PointFeatures,
        prior: Estimate | None = None,
        *,
        iterations: int | None = None,
        attended: Bool[Tensor, "B T N"] | None = None,
    ) -> Iterator[Estimate]:
        """Refine an estimate step by step. Gradients of positions are cut between steps, those of logits are not."""
        start = prior or Estimate.at_queries(points.queries, len(features))
        cells = self._cells(start.xy, features)
        visibility, confidence = start.visibility_logit, start.confidence_logit
        support = points.support
        if points.reached is not None:
            support = tuple(s * points.reached[..., None, None, None] for s in support)
        for _ in range(self.config.iterations if iterations is None else iterations):
            cells = cells.detach()
            tokens = self.tokens(features.maps, support, cells, visibility, confidence)
            delta = self.updateformer(tokens, attended).transpose(1, 2).to(cells.dtype)  # (B, T, N, 4)
            cells = cells + delta[..., :2]
            visibility = visibility + delta[..., 2]
            confidence = confidence + delta[..., 3]
            yield Estimate(self._pixels(cells, features), visibility, confidence)

    def tokens(
        self,
        maps: Sequence[Float[Tensor, "B T _h _w _C"]],
        support: Sequence[Float[Tensor, "B N S S _C"]],
        cells: Float[Tensor, "B T N 2"],
        visibility: Float[Tensor, "B T N"],
        confidence: Float[Tensor, "B T N"],
    ) -> Float[Tensor, "B N T W"]:
        """One token a point and frame: logits, correlation of all levels, displacements; plus the time embedding."""
        parts = [visibility[..., None], confidence[..., None]]
        peaks = []
        for level_map, level_support, scale in zip(maps, support, self._level_scales(), strict=True):
            volume = correlation_volume(level_map, cells * scale, level_support, self.config.radius)
            parts.append(self.corr_mlp(volume.flatten(3)))
            if self.config.peaks:
                peaks.append(self._peak(volume))
        tokens = torch.cat([*parts, self._displacements(cells), *peaks], dim=-1)  # (B, T, N, W)
        time = resampled_time(self.time_emb, tokens.shape[1]).to(tokens.dtype)
        return (tokens + time[:, :, None]).transpose(1, 2)

    def _displacements(self, cells: Float[Tensor, "B T N 2"]) -> Float[Tensor, "B T N E"]:
        """Embed the displacements to the next and from the previous frame, in units of the model's resolution."""
        step = cells[:, :-1] - cells[:, 1:]  # (B, T-1, N, 2)
        to_next = F.pad(step, (0, 0, 0, 0, 0, 1))
        from_previous = F.pad(-step, (0, 0, 0, 0, 1, 0))
        height, width = self.config.resolution
        unit = cells.new_tensor([width, height]) / self.config.stride
        return fourier_embedding(torch.cat([to_next / unit, from_previous / unit], dim=-1), DISPLACEMENT_FREQUENCIES)

    def _peak(self, volume: Float[Tensor, "B T N P P S S"]) -> Float[Tensor, "B T N 4"]:
        """Where the correlation with the query's own position peaks: soft mean offset, probability, similarity."""
        r, s = self.config.radius, self.config.support_radius
        similarity = volume[..., s, s].flatten(3).float()  # (B, T, N, P*P), x offset slow
        probability = (PEAK_TEMPERATURE * similarity).softmax(dim=-1)
        offset = torch.linspace(-1, 1, 2 * r + 1, device=volume.device)
        along_x, along_y = offset.repeat_interleave(len(offset)), offset.repeat(len(offset))
        return torch.stack(
            [
                (probability * along_x).sum(-1),
                (probability * along_y).sum(-1),
                probability.amax(-1),
                similarity.amax(-1),
            ],
            dim=-1,
        ).to(volume.dtype)


def initialise(model: CoTracker3, seed: int) -> None:
    """Set the weights as before training, all from one seed (Kaiming encoder, Xavier transformer, small heads)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm):
                module.reset_parameters()
        if hasattr(model.updateformer, "virual_tracks"):
            nn.init.normal_(model.updateformer.virual_tracks)
        for module in model.fnet.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in model.updateformer.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for name in ("flow_head", "vis_conf_head"):
            if hasattr(model.updateformer, name):
                nn.init.trunc_normal_(getattr(model.updateformer, name).weight, std=0.001)
