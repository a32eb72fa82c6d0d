"""TAPIR: find a point in every frame on its own, then refine its whole track (Doersch et al. 2023).

One network. TAPIR, BootsTAPIR (2024: trained on real videos as well) and the causal BootsTAPIR, which takes frames as
they come, are values of one configuration. Points do not look at each other.

From top to bottom: configuration, BootsTAPIR's part of the encoder, the match of a point with a frame, the mixer, and
the model with its three functions. The rest of the encoder is in `encoders`, since LocoTrack has the same.

    frames --encode--> at each resolution: a fine map, a coarse map (and that map pooled)
    query  --describe--> at each resolution: the fine and the coarse feature at its place
    --iterate--> the coarse feature compared with every cell of a frame says where the point is at first; then, at each
                 resolution, patches of correlation around the track -> mixer along time -> a better track, a few times

Keys and shapes of the state dict are those of the official checkpoints, and so are some ways that look odd; each has a
comment. Positions inside are raster coordinates, in pixels of the resolution of the first estimate unless they are said
to be cells of a map. A network says how hidden and how far off a point is: minus visibility and confidence.

Axes: B videos, T frames, N points, C channels, K mixer runs, D width of the mixer, P positions of a patch's side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from pointloom.errors import OptionError
from pointloom.geometry import from_raster, resize_area, to_raster
from pointloom.models.base import Estimate, FrameFeatures, Memory, Mode, Model, ModelInfo, PointFeatures
from pointloom.models.encoders import (
    PreActivationResNet,
    check_resolutions,
    growing_resolutions,
    resolutions_used,
    stretched,
)
from pointloom.models.layers import initialise_tracker, pyramid, sample_between_frames, soft_peak, unit_length

FINE, COARSE = 1, 3  # the groups of the encoder whose maps are used, at 1/4 and 1/8 of the size
CONFIDENCE_PX = 6.0  # nearer to the truth than this was right in training, in frames of 256 x 256
KERNEL = 3  # frames that a convolution of the mixer sees
MATCH_CHANNELS = 16  # of the small network that reads how well a point fits to every cell of a frame
MATCH_WIDE_CHANNELS = 32
FRAMES_MATCHED_AT_ONCE = 256  # of single points: bounds memory, changes nothing

Size = tuple[int, int]  # (height, width) in this file


@dataclass(frozen=True)
class TapirConfig:
    """Every size of the network. The defaults are TAPIR as released and evaluated."""

    # how it is driven
    causal: bool = False  # the mixer sees no later frames
    iterations: int = 4  # at each resolution of `refinements`

    # what it sees: frames are stretched to these (height, width). `refinements` None: in steps of up to two from
    # `resolution` to that of the video
    resolution: Size = (256, 256)  # of the first estimate
    refinements: tuple[Size, ...] | None = ((256, 256),)

    # encoder
    widths: tuple[int, int, int, int] = (64, 128, 256, 256)  # of its groups; the second and the last are used
    extra_blocks: int = 0  # on the coarse map
    expansion: int = 4  # width inside the extra blocks and those of the mixer

    # first estimate
    temperature: float = 20.0  # of the match; as released for PyTorch (10 for BootsTAPIR in JAX)
    peak_radius: float = 5.0  # cells around the best one that count

    # refinement
    pooled_maps: int = 0  # coarser maps to correlate with, each half the size of the one before
    radius: int = 3  # cells around the estimate: (2 radius + 1)^2
    mixer_width: int = 512
    mixer_depth: int = 12

    def __post_init__(self) -> None:
        """Refuse what cannot be computed."""
        if self.iterations < 1 or self.refinements == ():
            raise OptionError(
                f"TAPIR needs a refinement and an iteration; got {self.iterations} iterations at {self.refinements}."
            )
        check_resolutions((self.resolution, *(self.refinements or ())))

    @property
    def fine(self) -> int:
        """Channels of the fine map."""
        return self.widths[1]

    @property
    def coarse(self) -> int:
        """Channels of the coarse map."""
        return self.widths[-1]

    @property
    def maps(self) -> int:
        """Maps of one resolution."""
        return 2 + self.pooled_maps

    @property
    def token_width(self) -> int:
        """Position and the two logits, the features, the correlation with each map."""
        return 4 + self.fine + self.coarse + self.maps * (2 * self.radius + 1) ** 2


TAPIR = TapirConfig()
BOOTSTAPIR = TapirConfig(extra_blocks=5, pooled_maps=1)
CAUSAL_BOOTSTAPIR = TapirConfig(extra_blocks=5, pooled_maps=1, causal=True)
TINY = TapirConfig(widths=(24, 32, 64, 64), pooled_maps=1, mixer_width=128, mixer_depth=4)


def resolutions(config: TapirConfig, size: tuple[int, int]) -> list[Size]:
    """(height, width) of the first estimate and of each refinement, for a video of this (width, height)."""
    video = (size[1], size[0])
    grown = growing_resolutions(config.resolution, video) if config.refinements is None else config.refinements
    return resolutions_used([config.resolution, *grown], video)


# ----------------------------------------------------------------------------------------------------------- encoder


class ExtraBlock(nn.Module):
    """A norm and two 3x3 convolutions. As released, the sum is with the normed input, not with the input."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(channels, eps=1e-5)
        self.conv = nn.Conv2d(channels, expansion * channels, 3, padding=1)
        self.conv_1 = nn.Conv2d(expansion * channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "A h w C"]) -> Float[Tensor, "A h w C"]:
        """Return the map after the block."""
        normed = self.layer_norm(x)
        y = self.conv_1(F.gelu(self.conv(normed.movedim(-1, 1)), approximate="tanh"))
        return normed + y.movedim(1, -1)


class ExtraBlocks(nn.Module):
    """More of the coarse map's surroundings, in BootsTAPIR."""

    def __init__(self, config: TapirConfig) -> None:
        super().__init__()
        depth = range(config.extra_blocks)
        self.blocks = nn.ModuleList(ExtraBlock(config.coarse, config.expansion) for _ in depth)

    def forward(self, x: Float[Tensor, "A h w C"]) -> Float[Tensor, "A h w C"]:
        """Return the map after all blocks."""
        for block in self.blocks:
            x = block(x)
        return x


# ------------------------------------------------------------------------------------------------------------- match


def match_layers() -> nn.ModuleDict:
    """Layers that read one image of similarities: shared, where the point is, and how hidden and how far off."""
    few, many = MATCH_CHANNELS, MATCH_WIDE_CHANNELS
    return nn.ModuleDict(
        {
            "hid1": nn.Conv2d(1, few, 3, padding=1),
            "hid2": nn.Conv2d(few, 1, 3, padding=1),
            "hid3": nn.Conv2d(few, many, 3, stride=2),
            "hid4": nn.Linear(many, few),
            "occ_out": nn.Linear(few, 2),
        }
    )


class Match(NamedTuple):
    """Where points are by the look of single frames: cells of the coarse map, and two logits."""

    cells: Float[Tensor, "*A 2"]
    hidden: Float[Tensor, "*A"]
    far: Float[Tensor, "*A"]


# ------------------------------------------------------------------------------------------------------- correlation


def patch_correlation(
    maps: Float[Tensor, "B T h w C"],
    cells: Float[Tensor, "B T N 2"],
    features: Float[Tensor, "B T N C"],
    radius: int,
) -> Float[Tensor, "B T N PP"]:
    """Products of a feature with the map at (2 radius + 1)^2 places around a position, x fast; zero beyond the map.

    The map is read at whole cells, and products are blended (both are linear). As released, x is scaled as if the map
    were as wide as it is high: beside a map of w x h cells the places lie w/h cells apart, and around another centre.
    """
    B, T, h, w, C = maps.shape
    offsets = torch.arange(-radius, radius + 1, device=cells.device)
    x = from_raster((cells[..., :1] + offsets) * (w / h))  # (B, T, N, P), as indices of the map
    y = from_raster(cells[..., 1:] + offsets)
    columns = _whole_cells(x, math.ceil(2 * radius * w / h))  # (B, T, N, X)
    rows = _whole_cells(y, 2 * radius)  # (B, T, N, Y)
    image = torch.arange(B * T, device=cells.device).view(B, T, 1, 1, 1)
    row, column = rows.clamp(0, h - 1).long(), columns.clamp(0, w - 1).long()
    index = (image * h + row[..., :, None]) * w + column[..., None, :]  # (B, T, N, Y, X)
    read = maps.reshape(B * T * h * w, C).gather(0, index.flatten()[:, None].expand(-1, C))
    pixels = read.view(*index.shape, C).flatten(3, 4)  # (B, T, N, Y*X, C)
    products = (pixels @ features.to(read.dtype)[..., None]).view(index.shape)
    across, down = _hat_weights(x, columns, w), _hat_weights(y, rows, h)
    blended = down @ products.to(down.dtype) @ across.transpose(-1, -2)  # (B, T, N, P, P)
    return blended.flatten(-2)


def _whole_cells(places: Float[Tensor, "*A P"], reach: int) -> Float[Tensor, "*A X"]:
    """Indices of all whole cells between the first and the last place, which lie at most `reach` apart."""
    return places[..., :1].detach().floor() + torch.arange(reach + 2, device=places.device)


def _hat_weights(places: Float[Tensor, "*A P"], cells: Float[Tensor, "*A X"], size: int) -> Float[Tensor, "*A P X"]:
    """How much each whole cell counts at each place: linear between neighbours, zero for cells beyond the map."""
    weights = (1 - (places[..., :, None] - cells[..., None, :]).abs()).clamp(min=0)
    return weights * ((cells >= 0) & (cells < size))[..., None, :]


# ------------------------------------------------------------------------------------------------------------- mixer

# the last two frames of what the first and the second convolution of a block saw, and of all blocks together
BlockPast = tuple[Float[Tensor, "A D 2"], Float[Tensor, "A E 2"]]
Past = tuple[Float[Tensor, "A depth D 2"], Float[Tensor, "A depth E 2"]]


class ChannelMixer(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.mlp2_up = nn.Linear(width, expansion * width)
        self.mlp2_down = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis."""
        return self.mlp2_down(F.gelu(self.mlp2_up(x), approximate="tanh"))


class MixerBlock(nn.Module):
    """Convolutions along time, each channel on its own, then an MLP across channels."""

    def __init__(self, width: int, expansion: int, *, causal: bool) -> None:
        super().__init__()
        wide = expansion * width
        self.expansion = expansion
        self.before = KERNEL - 1 if causal else KERNEL // 2
        self.after = KERNEL - 1 - self.before
        self.layer_norm = nn.LayerNorm(width, eps=1e-5, bias=False)
        self.mlp1_up = nn.Conv1d(width, wide, KERNEL, groups=width)
        self.mlp1_up_1 = nn.Conv1d(wide, wide, KERNEL, groups=wide)
        self.layer_norm_1 = nn.LayerNorm(width, eps=1e-5, bias=False)
        self.conv_channels_mixer = ChannelMixer(width, expansion)

    def forward(self, x: Float[Tensor, "A T D"], past: BlockPast | None) -> tuple[Float[Tensor, "A T D"], BlockPast]:
        """Return the tokens after the block, and the last frames of what its convolutions saw."""
        earlier, earlier_wide = (None, None) if past is None else past
        first = self._with_neighbours(self.layer_norm(x).transpose(1, 2), earlier)
        second = self._with_neighbours(F.gelu(self.mlp1_up(first), approximate="tanh"), earlier_wide)
        mixed = self.mlp1_up_1(second).unflatten(1, (-1, self.expansion)).sum(dim=2)  # (A, D, T)
        x = x + mixed.transpose(1, 2)
        x = x + self.conv_channels_mixer(self.layer_norm_1(x))
        return x, (first[..., 1 - KERNEL :], second[..., 1 - KERNEL :])

    def _with_neighbours(self, x: Float[Tensor, "A C T"], past: Float[Tensor, "A C 2"] | None) -> Tensor:
        """Add the frames before and after that the convolution needs: those of the past if there is one, or zeros."""
        if past is None:
            return F.pad(x, (self.before, self.after))
        return torch.cat([past.to(x.dtype), x], dim=-1)


class Mixer(nn.Module):
    """Maps what is known of a point in each frame to a change of it."""

    def __init__(self, config: TapirConfig) -> None:
        super().__init__()
        D = config.mixer_width
        self.linear = nn.Linear(config.token_width, D)
        self.layer_norm = nn.LayerNorm(D, eps=1e-5, bias=False)
        self.linear_1 = nn.Linear(D, 4 + config.fine + config.coarse)
        self.blocks = nn.ModuleList(
            MixerBlock(D, config.expansion, causal=config.causal) for _ in range(config.mixer_depth)
        )

    def forward(
        self, tokens: Float[Tensor, "A T W"], past: Past | None = None, *, keep: bool = False
    ) -> tuple[Float[Tensor, "A T R"], Past | None]:
        """Return changes of x, y, the two logits and the features; and with `keep` the past of the next frames."""
        x = self.linear(tokens)
        firsts, seconds = [], []
        for j, block in enumerate(self.blocks):
            x, (first, second) = block(x, None if past is None else (past[0][:, j], past[1][:, j]))
            if keep:
                firsts.append(first.clone())  # not a view, which would hold on to all frames
                seconds.append(second.clone())
        kept = (torch.stack(firsts, dim=1), torch.stack(seconds, dim=1)) if keep else None
        return self.linear_1(self.layer_norm(x)), kept


# ------------------------------------------------------------------------------------------------------------- model


class Level(NamedTuple):
    """One resolution: its (height, width), the maps, and what each point looks like on them, fine then coarse."""

    size: Size
    maps: tuple[Float[Tensor, "B T _h _w _C"], ...]
    query: Float[Tensor, "B N C"]


class State(NamedTuple):
    """Where points are in the midst of refinement: pixels of the first resolution, and two logits."""

    xy: Float[Tensor, "B T N 2"]
    hidden: Float[Tensor, "B T N"]
    far: Float[Tensor, "B T N"]


Rows = tuple[Float[Tensor, "B N depth _C 2"], ...]  # the past of one run of the mixer, or nothing


class Tapir(Model):
    """The tracker. `encode`, `describe`, `refine`: see `pointloom.models.base`."""

    def __init__(self, config: TapirConfig) -> None:
        super().__init__()
        self.config = config
        self.resnet_torch = PreActivationResNet(config.widths)
        self.torch_cost_volume_track_mods = match_layers()
        self.torch_pips_mixer = Mixer(config)
        if config.extra_blocks:
            self.extra_convs = ExtraBlocks(config)

    @property
    def info(self) -> ModelInfo:
        """What a driver needs to know."""
        modes: tuple[Mode, ...] = ("causal", "full") if self.config.causal else ("full",)
        return ModelInfo(
            family="TAPIR",
            modes=modes,
            window=1,
            step=1,
            iterations=self.config.iterations,
            outputs=("visibility", "confidence"),
            parameters=sum(p.numel() for p in self.parameters()),
            code_licence="Apache-2.0",
            weights_licence="unknown",
            citation="Doersch et al. 2023, TAPIR: Tracking Any Point with per-frame Initialization and temporal "
            "Refinement",
            confidence_px=CONFIDENCE_PX * self.config.resolution[0] / 256,
        )

    # ---- encode

    def encode(self, frames: UInt8[Tensor, "B T H W 3"] | Float[Tensor, "B T H W 3"], start: int = 0) -> FrameFeatures:
        """Compute the maps of each frame (RGB, 0..255) at each resolution; equal resolutions share them."""
        B, T, H, W, _ = frames.shape
        images = frames.flatten(0, 1).movedim(-1, 1).to(self.torch_pips_mixer.linear.weight.dtype)
        images = 2 * (images / 255) - 1
        maps = [m for size in dict.fromkeys(resolutions(self.config, (W, H))) for m in self._maps(images, size)]
        height, width = self.config.resolution
        return FrameFeatures(
            tuple(m.contiguous().unflatten(0, (B, T)) for m in maps), size=(W, H), input=(width, height), start=start
        )

    def _maps(self, images: Float[Tensor, "A 3 H W"], size: Size) -> list[Float[Tensor, "A _h _w _C"]]:
        maps = self.resnet_torch(stretched(images, size))
        fine, coarse = (maps[group].movedim(1, -1) for group in (FINE, COARSE))
        if self.config.extra_blocks:
            coarse = self.extra_convs(coarse)
        return [unit_length(fine), *pyramid(unit_length(coarse), 1 + self.config.pooled_maps)]

    # ---- describe

    def describe(self, features: FrameFeatures, queries: Float[Tensor, "B N 3"]) -> PointFeatures:
        """Read the fine and the coarse map of each resolution at the query; between two frames, blend them."""
        support = []
        for k, m in enumerate(features.maps):
            if k % self.config.maps > 1:
                continue  # pooled
            cells = resize_area(queries[..., 1:], features.size, (m.shape[3], m.shape[2]))
            support.append(sample_between_frames(m, queries[..., 0] - features.start, cells, 0))
        return PointFeatures(queries, tuple(support))

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
        """Yield the first estimate, that after each iteration but the last, and the mean over resolutions of the last.

        Points are put on their queries in the first estimate, unless the prior has a memory, and nowhere else. In the
        memory the rows of points are the past of the mixer in each of its runs, two tensors a run.
        """
        memory = None if prior is None else prior.memory
        first, *refinements = self._levels(features, points)
        start = self.first_estimate(first, features, points, pinned=memory is None)
        per_level = self.config.iterations if iterations is None else iterations
        runs = per_level * len(refinements)
        remembered = () if memory is None else memory.points
        if len(remembered) not in (0, 2 * runs):
            raise OptionError(
                f"what is remembered of the frames before comes from {len(remembered) // 2} iterations, and these are "
                f"{runs}. A causal model needs the same number in every frame."
            )
        pasts: Iterator[Rows] = zip(remembered[::2], remembered[1::2], strict=True) if remembered else repeat(())
        kept: list[Tensor] = []
        state = start
        ends = []
        for level in refinements:
            before = State(state.xy, start.hidden, start.far)  # the logits begin anew at each resolution, as released
            feature = level.query[:, None].expand(-1, len(features), -1, -1)  # (B, T, N, C)
            for _ in range(per_level):
                yield self._estimate(state, features)
                state, feature, past = self._improved(level, before, feature, next(pasts), keep=memory is not None)
                kept += past
                before = state
            ends.append(state)
        mean = State(*(torch.stack(values).mean(dim=0) for values in zip(*ends, strict=True)))
        yield self._estimate(mean, features, None if memory is None else Memory(tuple(kept)))

    def _levels(self, features: FrameFeatures, points: PointFeatures) -> list[Level]:
        """Take features apart: the resolution of the first estimate, then each refinement."""
        sizes = resolutions(self.config, features.size)
        distinct = list(dict.fromkeys(sizes))
        levels = []
        for size in sizes:
            k = distinct.index(size)
            maps = features.maps[k * self.config.maps : (k + 1) * self.config.maps]
            fine, coarse = (s[:, :, 0, 0] for s in points.support[2 * k : 2 * k + 2])
            levels.append(Level(size, maps, torch.cat([fine, coarse], dim=-1)))
        return levels

    def first_estimate(self, level: Level, features: FrameFeatures, points: PointFeatures, *, pinned: bool) -> State:
        """Find each point in each frame by itself; with `pinned`, put it on its query in the query's frame."""
        coarse = level.maps[1]
        query = level.query[..., self.config.fine :]
        similarity = torch.einsum("bthwc,bnc->btnhw", coarse, query)
        matches = [self.match(images) for images in similarity.flatten(0, 2).split(FRAMES_MATCHED_AT_ONCE)]
        shape = similarity.shape[:3]
        cells, hidden, far = (torch.cat(parts).unflatten(0, shape) for parts in zip(*matches, strict=True))
        height, width = self.config.resolution
        queries = points.queries
        grid = cells.new_tensor([coarse.shape[3], coarse.shape[2]])
        xy = cells.to(queries.dtype) * cells.new_tensor([width, height]) / grid
        if pinned:
            frames = torch.arange(features.start, features.stop, device=queries.device)
            here = frames[:, None] == queries[:, None, :, 0].round()  # (B, T, N); halves go to the even frame
            on_query = to_raster(resize_area(queries[:, None, :, 1:], features.size, (width, height)))
            xy = torch.where(here[..., None], on_query, xy)
        return State(xy, hidden.to(xy.dtype), far.to(xy.dtype))

    def scores(self, similarity: Float[Tensor, "A h w"]) -> tuple[Float[Tensor, "A C h w"], Float[Tensor, "A h w"]]:
        """Return what a convolution sees in images of similarities, and the logit of each cell."""
        layers = self.torch_cost_volume_track_mods
        shared = F.relu(layers["hid1"](similarity[:, None]))
        return shared, self.config.temperature * layers["hid2"](shared)[:, 0]

    def match(self, similarity: Float[Tensor, "A h w"]) -> Match:
        """Read images of similarities: one for each point and frame."""
        layers = self.torch_cost_volume_track_mods
        shared, score = self.scores(similarity)
        probability = score.flatten(1).softmax(dim=1).view(score.shape)
        # padded on the right and below only: this differs from both sides where the map has an odd height or width
        wide = F.relu(layers["hid3"](F.pad(shared, (0, 2, 0, 2)))).mean(dim=(-2, -1))
        logits = layers["occ_out"](F.relu(layers["hid4"](wide)))
        return Match(soft_peak(probability, self.config.peak_radius), logits[:, 0], logits[:, 1])

    def _improved(
        self, level: Level, state: State, feature: Float[Tensor, "B T N C"], past: Rows, *, keep: bool
    ) -> tuple[State, Float[Tensor, "B T N C"], Rows]:
        """One iteration: a better state, the features that go with it, and the past of the next frames."""
        B, _, N = state.hidden.shape
        tokens = self.tokens(level, state, feature).transpose(1, 2).flatten(0, 1)  # (B*N, T, W)
        earlier = (past[0].flatten(0, 1), past[1].flatten(0, 1)) if past else None
        change, kept = self.torch_pips_mixer(tokens, earlier, keep=keep)
        change = change.unflatten(0, (B, N)).transpose(1, 2).to(state.xy.dtype)  # (B, T, N, R)
        # the mixer speaks of pixels of the level, positions are in pixels of the first resolution
        scale = [old / new for old, new in zip(self.config.resolution[::-1], level.size[::-1], strict=True)]
        improved = State(
            state.xy + change[..., :2] * state.xy.new_tensor(scale),
            state.hidden + change[..., 2],
            state.far + change[..., 3],
        )
        return improved, feature + change[..., 4:], tuple(rows.unflatten(0, (B, N)) for rows in kept or ())

    def tokens(self, level: Level, state: State, feature: Float[Tensor, "B T N C"]) -> Float[Tensor, "B T N W"]:
        """One token a point and frame: two unused places, the logits, the features, the correlation with each map."""
        height, width = self.config.resolution
        parts = [torch.zeros_like(state.xy), state.hidden[..., None], state.far[..., None], feature.to(state.xy.dtype)]
        fine, coarse = feature.split([self.config.fine, self.config.coarse], dim=-1)
        for k, m in enumerate(level.maps):
            cells = state.xy * state.xy.new_tensor([m.shape[3], m.shape[2]]) / state.xy.new_tensor([width, height])
            parts.append(patch_correlation(m, cells, coarse if k else fine, self.config.radius))
        return torch.cat(parts, dim=-1)

    def _estimate(self, state: State, features: FrameFeatures, memory: Memory | None = None) -> Estimate:
        height, width = self.config.resolution
        xy = resize_area(from_raster(state.xy), (width, height), features.size)
        return Estimate(xy, -state.hidden, -state.far, memory)


def initialise(model: Tapir, seed: int) -> None:
    """Set the weights as before training, all from one seed; the mixer's first changes are small."""
    mixer = model.torch_pips_mixer
    initialise_tracker(model, model.resnet_torch, mixer, [mixer.linear_1], seed)
