"""CoTracker3: tracking points jointly by iterative updates of their tokens (Karaev et al. 2024), offline and online.

One network. Offline and online are two values of one configuration and differ in how a driver moves it over a video
(`pointloom.tracking`): the offline model sees all frames at once, the online model a window of 16 that advances by 8.

From top to bottom: configuration, the light encoder, and the model with its three functions. The encoder of the paper
and the transformer are in `encoders` and `layers`, with what else CoTracker v2 shares.

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
from pointloom.models.base import Estimate, FrameFeatures, Memory, Mode, Model, ModelInfo, PointFeatures
from pointloom.models.encoders import ResidualBlock, ResidualEncoder, ResizeRule, Resizing, instance_norm
from pointloom.models.layers import (
    PEAK_NUMBERS,
    Mlp,
    UpdateFormer,
    correlation_peak,
    correlation_volume,
    fourier_embedding,
    initialise_tracker,
    pyramid,
    resampled_time,
    sample_patches,
    time_table,
    to_neighbours,
    unit_length,
)

DISPLACEMENT_FREQUENCIES = 10
RECENT_SHARE = 0.3  # before training
RECENT_FRAMES = 8  # of a window, at most, in which is looked at a point


@dataclass(frozen=True)
class CoTracker3Config:
    """Every size of the network. The defaults are the released offline configuration."""

    # how it is driven
    modes: tuple[Mode, ...] = ("full",)
    window: int = 60  # frames of a window; also the rows of the time table
    step: int = 60  # new frames of a window
    iterations: int = 6
    recovers: bool = False  # lost points are looked for in other places (not in the paper)
    leads_in: bool = False  # the first windows are shorter (not in the paper)

    # what it sees: see `Resizing`
    resize: ResizeRule = "stretch"
    resolution: tuple[int, int] = (384, 512)  # (height, width)
    largest: int = 0  # pixels of the short side
    displacement_unit: tuple[int, int] | None = None  # (height, width), of those in the tokens; None: `resolution`

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
    recent: bool = False  # mixes how a point looks lately into how its query looks (not in the paper)

    # transformer
    hidden: int = 384
    heads: int = 8
    mlp_ratio: int = 4
    time_depth: int = 3
    space_depth: int = 3
    virtual_tracks: int = 64
    space_attention: bool = True
    separate_heads: bool = True  # visibility and confidence have their own last layer
    confidence_px: float = (
        12.0  # as near as this to the truth was right in training, in pixels of frames as it sees them
    )

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
    recovers=True,
    leads_in=True,
    resize="fit",
    resolution=(320, 424),
    largest=360,
    displacement_unit=(288, 384),  # trained with it
    encoder="light",
    channels=64,
    fine_channels=16,
    support_radius=1,
    correlation_hidden=128,
    correlation_width=64,
    peaks=True,
    recent=True,
    hidden=128,
    heads=4,
    time_depth=2,
    space_depth=1,
    virtual_tracks=16,
    confidence_px=20.0,  # on frames of 432 x 320; up to phase 9 12 px on those of 256 x 192, which is as much
)


# ----------------------------------------------------------------------------------------------------- light encoder


def doubled(x: Float[Tensor, "B C h w"], size: Sequence[int]) -> Float[Tensor, "B C i j"]:
    """Enlarge a map by two so that old cell k lies on new cell 2k, as strided convolutions left them."""
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")  # whose copies are cut off where the new map has no place for them
    h, w = 2 * x.shape[-2] - 1, 2 * x.shape[-1] - 1
    return F.interpolate(x, size=(h, w), mode="bilinear", align_corners=True)[..., : size[0], : size[1]]


class LightEncoder(nn.Module):
    """A third of the cost of a residual encoder of the same width: a short stem, sums in place of concatenation.

    Optionally a second map, twice as fine, for positions well under one cell of the first: its four values for each
    cell are computed at the coarser size, where convolutions are cheap, from sharp early features and, as these know
    little of what surrounds them, from the features that the first map is made of.
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
            self.fine = nn.Conv2d(quarter, 4 * config.fine_channels, 3, padding=1)
            self.fine_context = nn.Conv2d(C, 4 * config.fine_channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _C _h _w"]]:
        """Return the map at 1/4 of the size, and before it the one at 1/2 if there is one."""
        x = F.relu(instance_norm(self.stem1(x)), inplace=True)
        quarter = self.layer1(F.relu(instance_norm(self.stem2(x)), inplace=True))
        eighth = self.layer2(quarter)
        sixteenth = self.layer3(eighth)
        total = self.lateral[2](sixteenth)
        for lateral, stage in zip((self.lateral[1], self.lateral[0]), (eighth, quarter), strict=True):
            total = lateral(stage) + doubled(total, stage.shape[-2:])
        fused = F.relu(self.head1(F.relu(instance_norm(total), inplace=True)))
        maps = [self.head2(fused)]
        if hasattr(self, "fine"):
            maps.insert(0, F.pixel_shuffle(self.fine(quarter) + self.fine_context(fused), 2))
        return maps


# ------------------------------------------------------------------------------------------------------------- model


class CoTracker3(Model):
    """The tracker. `encode`, `describe`, `refine`: see `pointloom.models.base`."""

    time_emb: Tensor

    def __init__(self, config: CoTracker3Config) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("time_emb", time_table(config.window, config.token_width))
        self.resizing = Resizing(config.resize, config.resolution, config.stride, config.largest)
        self.fnet = (
            LightEncoder(config) if config.encoder == "light" else ResidualEncoder(config.channels, config.stride)
        )
        self.updateformer = UpdateFormer(
            config.token_width,
            {"flow_head": 2, "vis_conf_head": 2} if config.separate_heads else {"flow_head": 4},
            hidden=config.hidden,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            time_depth=config.time_depth,
            space_depth=config.space_depth if config.space_attention else 0,
            virtual_tracks=config.virtual_tracks,
        )
        self.corr_mlp = Mlp(config.volume_width, config.correlation_hidden, config.correlation_width, "none")
        if config.recent:
            self.recent_share = nn.Parameter(torch.full((config.all_levels,), RECENT_SHARE).logit())

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
            confidence_px=c.confidence_px,
            recovers=c.recovers,
            leads_in=c.leads_in,
        )

    # ---- encode

    def encode(self, frames: UInt8[Tensor, "B T H W 3"] | Float[Tensor, "B T H W 3"], start: int = 0) -> FrameFeatures:
        """Compute the feature pyramid of each frame (RGB, 0..255)."""
        B, T, H, W, _ = frames.shape
        images = self.resized(frames.flatten(0, 1).movedim(-1, 1))  # (B*T, 3, h, w)
        maps = [unit_length(m.movedim(1, -1)) for m in self.fnet(images * (2 / 255) - 1)]
        maps[-1:] = pyramid(maps[-1], self.config.levels)
        return FrameFeatures(
            tuple(m.contiguous().unflatten(0, (B, T)) for m in maps),
            size=(W, H),
            input=(images.shape[-1], images.shape[-2]),
            start=start,
        )

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) at which the network sees a video of this (width, height)."""
        return self.resizing.input_size(size)

    def resized(self, images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
        """Bring images to the size at which the network sees them."""
        return self.resizing.resized(images.to(self.time_emb.dtype))

    def _level_scales(self) -> list[float]:
        """Cells of each map in one cell of the stride-`stride` map, again without half-pixel shifts."""
        scales = [0.5**level for level in range(self.config.levels)]
        return [2.0, *scales] if self.config.fine_channels else scales

    # ---- describe

    def describe(self, features: FrameFeatures, queries: Float[Tensor, "B N 3"]) -> PointFeatures:
        """Take the patch of features around each query at every level."""
        frame = queries[..., 0].long() - features.start
        cells = self.resizing.to_cells(queries[..., 1:], features.size)
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
        """Refine an estimate step by step. Gradients of positions are cut between steps, those of logits are not.

        With `recent`, what is remembered is how each point looks lately. It is brought up to date before the last step.
        """
        start = prior or Estimate.at_queries(points.queries, len(features))
        cells = self.resizing.to_cells(start.xy, features.size)
        visibility, confidence = start.visibility_logit, start.confidence_logit
        memory = start.memory
        support = self._support(points, memory)
        looked_at = None if attended is None else attended[:, :, None]  # (B, T, 1, N)
        iterations = self.config.iterations if iterations is None else iterations
        for iteration in range(iterations):
            cells = cells.detach()
            if self.config.recent and 0 < iteration == iterations - 1:
                memory = self._remembered(features, points, memory, cells, visibility.detach(), confidence.detach())
                support = self._support(points, memory)
            tokens = self.tokens(features.maps, support, cells, visibility, confidence)
            delta = self.updateformer(tokens, looked_at=looked_at).transpose(1, 2).to(cells.dtype)  # (B, T, N, 4)
            cells = cells + delta[..., :2]
            visibility = visibility + delta[..., 2]
            confidence = confidence + delta[..., 3]
            yield Estimate(self.resizing.to_pixels(cells, features.size), visibility, confidence, memory)

    def _support(self, points: PointFeatures, memory: Memory | None) -> list[Float[Tensor, "B N S S _C"]]:
        """Return what is correlated with the maps: nothing for a point that is not reached yet."""
        support = list(points.support)
        if memory is not None and memory.points:
            for level, (share, direction) in enumerate(zip(self.recent_share.sigmoid(), memory.points, strict=True)):
                at_query = support[level]
                recent = (direction * at_query.norm(dim=-1, keepdim=True)).to(at_query.dtype)
                known = direction.any(dim=-1, keepdim=True)
                support[level] = torch.where(known, torch.lerp(at_query, recent, share.to(at_query.dtype)), at_query)
        if points.reached is not None:
            support = [s * points.reached[..., None, None, None] for s in support]
        return support

    def _remembered(
        self,
        features: FrameFeatures,
        points: PointFeatures,
        before: Memory | None,
        cells: Float[Tensor, "B T N 2"],
        visibility: Float[Tensor, "B T N"],
        confidence: Float[Tensor, "B T N"],
    ) -> Memory:
        """How each point looks lately, at every level: the mean direction of its patches in some of these frames.

        A frame counts as far as the point is seen in it, and what was remembered before counts as much as one frame, so
        that it is lost only when something takes its place.
        """
        N, T = len(points), len(features)
        chosen = torch.arange(0, T, -(-T // RECENT_FRAMES), device=cells.device)  # (F,)
        begun = points.frame[:, None] <= features.start + chosen[:, None]  # (B, F, N)
        weight = (visibility.sigmoid() * confidence.sigmoid())[:, chosen] * begun
        at = cells[:, chosen].flatten(1, 2)  # (B, F*N, 2)
        frame = chosen.repeat_interleave(N).expand(len(cells), -1)
        recent = []
        for level, (level_map, scale) in enumerate(zip(features.maps, self._level_scales(), strict=True)):
            patches = sample_patches(level_map, frame, at * scale, self.config.support_radius).unflatten(1, (-1, N))
            total = (weight[..., None, None, None] * patches).sum(1)
            if before is not None and before.points:
                total = total + before.points[level]
            recent.append(unit_length(total))
        return Memory(tuple(recent))

    def tokens(
        self,
        maps: Sequence[Float[Tensor, "B T _h _w _C"]],
        support: Sequence[Float[Tensor, "B N S S _C"]],
        cells: Float[Tensor, "B T N 2"],
        visibility: Float[Tensor, "B T N"],
        confidence: Float[Tensor, "B T N"],
    ) -> Float[Tensor, "B N T W"]:
        """One token a point and frame: logits, correlation of all levels, displacements; plus the time embedding."""
        # points before frames from here on, as the transformer has them: of tokens that do not lie together in memory
        # a linear layer makes a batch, with a copy of its weights for each point
        parts = [torch.stack([visibility, confidence], dim=-1).transpose(1, 2)]
        peaks = []
        of_points = cells.transpose(1, 2)  # (B, N, T, 2)
        for level_map, level_support, scale in zip(maps, support, self._level_scales(), strict=True):
            volume = correlation_volume(level_map, of_points * scale, level_support, self.config.radius)
            parts.append(self.corr_mlp(volume.flatten(3)))
            if self.config.peaks:
                s = self.config.support_radius  # of the query's own position
                peaks.append(correlation_peak(volume[..., s, s].flatten(3)).to(volume.dtype))
        tokens = torch.cat([*parts, self._displacements(cells).transpose(1, 2), *peaks], dim=-1)  # (B, N, T, W)
        return tokens + resampled_time(self.time_emb, tokens.shape[2]).to(tokens.dtype)[:, None]

    def _displacements(self, cells: Float[Tensor, "B T N 2"]) -> Float[Tensor, "B T N E"]:
        """Embed the displacements to the next and from the previous frame."""
        height, width = self.config.displacement_unit or self.config.resolution
        unit = cells.new_tensor([width, height, width, height]) / self.config.stride
        return fourier_embedding(to_neighbours(cells) / unit, DISPLACEMENT_FREQUENCIES)


def initialise(model: CoTracker3, seed: int) -> None:
    """Set the weights as before training, all from one seed."""
    initialise_tracker(model, model.fnet, model.updateformer, model.updateformer.output_layers(), seed)
