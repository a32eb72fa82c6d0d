"""LocoTrack: matching all of a query's surroundings with all of a place's (Cho et al. 2024), base and small.

TAPIR's two stages, find a point in every frame on its own and then refine its whole track, with two other parts: what
is compared is two neighbourhoods, not a neighbourhood with one feature; and what looks along time is a transformer.
Base and small are two values of one configuration. Points do not look at each other.

From top to bottom: configuration, the reader of correlations, the transformer, and the model with its three functions.

    frames --encode--> a sharp, a fine and a coarse map (the last two also at the resolution of the first estimate)
    query  --describe--> patches of all maps around its place
    --iterate--> fine and coarse feature compared with every cell of a frame say where the point is at first; then
                 4D correlation of query patches with patches around the track -> transformer along time -> a better
                 track, `iterations` times

Keys and shapes of the state dict are those of the released checkpoints. Positions inside are raster coordinates, in
pixels of the resolution of the first estimate unless they are said to be cells of a map. The network says how hidden
and how far off a point is: minus visibility and confidence.

Axes: B videos, T frames, N points, C channels, D width of the transformer, P positions of a patch's side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from pointloom.errors import OptionError
from pointloom.geometry import from_raster, resize_area, to_raster
from pointloom.models.base import Estimate, FrameFeatures, Model, ModelInfo, PointFeatures
from pointloom.models.encoders import (
    PreActivationResNet,
    check_resolutions,
    growing_resolutions,
    resolutions_used,
    stretched,
)
from pointloom.models.layers import (
    attend,
    correlation_volume,
    fourier_embedding,
    initialise_tracker,
    sample_between_frames,
    soft_peak,
    to_neighbours,
    unit_length,
)

SHARP, FINE, COARSE = 0, 1, 3  # the groups of the encoder whose maps are used, at 1/2, 1/4 and 1/8 of the size
COMPARED_IN_TURN = (1, 2, 0)  # of these maps, fine, coarse, sharp: the order in which tokens have their correlations
TEMPERATURE = 20.0  # of the match
PEAK_RADIUS = 5.0  # cells around the best one that count
MOTION_FREQUENCIES = 10
CHANNELS_A_NORM = 16  # of a correlation's reader that are normalised together
HEAD_WIDTH = 64
CONFIDENCE_PX = 6.0  # nearer to the truth than this was right in training, in frames of 256 x 256
STEEPNESS = 24.0  # how much faster the last head forgets than one that never would
MASKED = -1e9  # logit of what a head does not look at
FRAMES_MATCHED_AT_ONCE = 256  # of single points: bounds memory, changes nothing

Size = tuple[int, int]  # (height, width) in this file


@dataclass(frozen=True)
class LocoTrackConfig:
    """Every size of the network. The defaults are base, as released and evaluated."""

    # how it is driven
    iterations: int = 4

    # what it sees: frames are stretched to these (height, width). The first of `refinements` is that of the first
    # estimate, the last that of all iterations; None: in steps of up to two from `resolution` to that of the video
    resolution: Size = (256, 256)  # in whose pixels positions are counted
    refinements: tuple[Size, ...] | None = ((256, 256),)

    # encoder
    widths: tuple[int, int, int, int] = (64, 128, 256, 256)  # of its groups

    # correlation, and what reads it: convolutions over a patch
    radius: int = 3  # cells around the estimate, and around the query: (2 radius + 1)^2
    reader_widths: tuple[int, ...] = (64, 128, 128)
    reader_kernels: tuple[int, ...] = (3, 3, 2)
    reader_strides: tuple[int, ...] = (2, 2, 2)

    # transformer
    heads: int = 6  # half of them look back, the others ahead
    depth: int = 3
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot be computed."""
        if self.heads < 2 or self.heads % 2:
            raise OptionError(f"half of the heads look back and half ahead, so they must be even; got {self.heads}.")
        if not len(self.reader_widths) == len(self.reader_kernels) == len(self.reader_strides) > 0:
            raise OptionError(
                f"each convolution of a correlation's reader has a width, a kernel and a stride; got "
                f"{self.reader_widths}, {self.reader_kernels} and {self.reader_strides}."
            )
        if any(width % CHANNELS_A_NORM for width in self.reader_widths):
            raise OptionError(f"reader_widths must be multiples of {CHANNELS_A_NORM}, got {self.reader_widths}.")
        if self.refinements == ():
            raise OptionError("LocoTrack needs a resolution in `refinements`, or None to derive some; got none.")
        check_resolutions((self.resolution, *(self.refinements or ())))

    @property
    def hidden(self) -> int:
        """Width of the transformer."""
        return self.heads * HEAD_WIDTH

    @property
    def token_width(self) -> int:
        """The two logits, what is read of each map's correlation, the motion."""
        return 2 + len(COMPARED_IN_TURN) * 2 * self.reader_widths[-1] + 4 + 2 * 4 * MOTION_FREQUENCIES

    @property
    def change_width(self) -> int:
        """Position, the two logits, and as many numbers as two features have, which nothing uses (as released)."""
        return 4 + self.widths[FINE] + self.widths[COARSE]


BASE = LocoTrackConfig()
SMALL = LocoTrackConfig(reader_widths=(64, 128), reader_kernels=(5, 2), reader_strides=(4, 2), heads=4)
TINY = LocoTrackConfig(
    widths=(24, 32, 64, 64), reader_widths=(32, 64), reader_kernels=(5, 2), reader_strides=(4, 2), heads=2
)


def resolutions(config: LocoTrackConfig, size: tuple[int, int]) -> list[Size]:
    """(height, width) of all feature levels for a video of this (width, height): the first and the last are used."""
    video = (size[1], size[0])
    if config.refinements is None:
        return resolutions_used(growing_resolutions(config.resolution, video), video)
    return resolutions_used(config.refinements, video)


# ------------------------------------------------------------------------------------------------------- correlation


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, so that a convolution gives side / stride places, rounded up; the odd one comes after."""
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


class CorrelationReader(nn.Module):
    """Reads the 4D correlation of two patches twice with the same convolutions: as images over each patch."""

    def __init__(self, config: LocoTrackConfig) -> None:
        super().__init__()
        self.kernels, self.strides = config.reader_kernels, config.reader_strides
        widths = [(2 * config.radius + 1) ** 2, *config.reader_widths]
        self.conv = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, kernel, stride=stride),
                nn.GroupNorm(after // CHANNELS_A_NORM, after, eps=1e-5),
                nn.ReLU(),
            )
            for before, after, kernel, stride in zip(widths[:-1], widths[1:], self.kernels, self.strides, strict=True)
        )

    def forward(self, volume: Float[Tensor, "A P P S S"]) -> Float[Tensor, "A D"]:
        """Return what is read of the patch around the place (first), and of that around the query."""
        volume = volume.transpose(1, 2).transpose(3, 4)  # y offset slow, as released
        over_place = volume.flatten(3).movedim(-1, 1)  # (A, S*S, P, P)
        over_query = volume.flatten(1, 2)  # (A, P*P, S, S)
        return torch.cat([self._read(over_place), self._read(over_query)], dim=-1)

    def _read(self, x: Float[Tensor, "A C P P"]) -> Float[Tensor, "A D"]:
        for layer, kernel, stride in zip(self.conv, self.kernels, self.strides, strict=True):
            padding = same_padding(x.shape[-1], kernel, stride)
            x = layer(F.pad(x, (*padding, *padding)))
        return x.mean(dim=(-2, -1))


# ------------------------------------------------------------------------------------------------------- transformer


def back_and_ahead(frames: int, heads: int) -> Float[Tensor, "heads T T"]:
    """What is added to logits of attention: the further a frame, the less; half of the heads see no later frames.

    The others see no earlier ones. After ALiBi (Press et al. 2022), with slopes of its own.
    """
    half = heads // 2
    slope = STEEPNESS ** -(torch.arange(1, half + 1, dtype=torch.float64) / half)
    frame = torch.arange(frames)
    age = frame[:, None] - frame  # of the frame that is looked at
    back = torch.where(age >= 0, -slope[:, None, None] * age, MASKED)
    return torch.cat([back, back.transpose(-1, -2)])


class TimeAttention(nn.Module):
    """Multi-head attention of the frames of a track to one another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_proj = nn.Linear(width, width)
        self.key_proj = nn.Linear(width, width)
        self.value_proj = nn.Linear(width, width)
        self.final_proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "A T D"], bias: Float[Tensor, "heads T T"]) -> Float[Tensor, "A T D"]:
        """Attend, with `bias` added to the logits."""
        q, k, v = (self._split(layer(x)) for layer in (self.query_proj, self.key_proj, self.value_proj))
        return self.final_proj(attend(q, k, v, bias.to(q.dtype)).transpose(1, 2).flatten(2))

    def _split(self, x: Float[Tensor, "A T D"]) -> Float[Tensor, "A heads T d"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class TimeBlock(nn.Module):
    """Attention, then an MLP; layer norms before both."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attn = TimeAttention(width, heads)
        self.dense = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))
        self.layer_norm1 = nn.LayerNorm(width, eps=1e-5)
        self.layer_norm2 = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x: Float[Tensor, "A T D"], bias: Float[Tensor, "heads T T"]) -> Float[Tensor, "A T D"]:
        """Return the tokens after the block."""
        x = x + self.attn(self.layer_norm1(x), bias)
        return x + self.dense(self.layer_norm2(x))


class TimeBlocks(nn.Module):
    """All blocks, and a last layer norm."""

    def __init__(self, config: LocoTrackConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.layers = nn.ModuleList(
            TimeBlock(config.hidden, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.ln_out = nn.LayerNorm(config.hidden, eps=1e-5)

    def forward(self, x: Float[Tensor, "A T D"]) -> Float[Tensor, "A T D"]:
        """Return the tokens after all blocks."""
        bias = back_and_ahead(x.shape[1], self.heads).to(x)
        for layer in self.layers:
            x = layer(x, bias)
        return self.ln_out(x)


class Refiner(nn.Module):
    """Maps what is known of a point in each frame to a change of it."""

    def __init__(self, config: LocoTrackConfig) -> None:
        super().__init__()
        self.transformer = TimeBlocks(config)
        self.input_proj = nn.Linear(config.token_width, config.hidden)
        self.output_proj = nn.Linear(config.hidden, config.change_width)

    def forward(self, tokens: Float[Tensor, "A T W"]) -> Float[Tensor, "A T R"]:
        """Return changes of x, y and the two logits, and what nothing uses."""
        return self.output_proj(self.transformer(self.input_proj(tokens)))


# ------------------------------------------------------------------------------------------------------------- model


class State(NamedTuple):
    """Where points are, by default in pixels of the first estimate's resolution, and two logits."""

    xy: Float[Tensor, "*A 2"]
    hidden: Float[Tensor, "*A"]
    far: Float[Tensor, "*A"]


class LocoTrack(Model):
    """The tracker. `encode`, `describe`, `refine`: see `pointloom.models.base`."""

    def __init__(self, config: LocoTrackConfig) -> None:
        super().__init__()
        self.config = config
        self.resnet_torch = PreActivationResNet(config.widths)
        self.torch_pips_mixer = Refiner(config)
        self.cmdtop = nn.ModuleList(CorrelationReader(config) for _ in COMPARED_IN_TURN)
        self.cost_conv = nn.Conv2d(2, 1, 3, padding=1)
        self.occ_linear = nn.Linear(6, 2)

    @property
    def info(self) -> ModelInfo:
        """What a driver needs to know."""
        return ModelInfo(
            family="LocoTrack",
            modes=("full",),
            window=1,
            step=1,
            iterations=self.config.iterations,
            outputs=("visibility", "confidence"),
            parameters=sum(p.numel() for p in self.parameters()),
            code_licence="Apache-2.0",
            weights_licence="unknown",
            citation="Cho et al. 2024, Local All-Pair Correspondence for Point Tracking",
            confidence_px=CONFIDENCE_PX * self.config.resolution[0] / 256,
        )

    # ---- encode

    def encode(self, frames: UInt8[Tensor, "B T H W 3"] | Float[Tensor, "B T H W 3"], start: int = 0) -> FrameFeatures:
        """Compute the maps of each frame (RGB, 0..255): sharp, fine and coarse, of the resolution of all iterations.

        If the first estimate has another resolution, its fine and coarse map follow: the last two are always its own.
        """
        B, T, H, W, _ = frames.shape
        images = frames.flatten(0, 1).movedim(-1, 1).to(self.occ_linear.weight.dtype)
        images = 2 * (images / 255) - 1
        sizes = resolutions(self.config, (W, H))
        maps = self._maps(images, sizes[-1])
        if sizes[0] != sizes[-1]:
            maps += self._maps(images, sizes[0])[1:]
        height, width = self.config.resolution
        return FrameFeatures(
            tuple(m.contiguous().unflatten(0, (B, T)) for m in maps), size=(W, H), input=(width, height), start=start
        )

    def _maps(self, images: Float[Tensor, "A 3 H W"], size: Size) -> list[Float[Tensor, "A _h _w _C"]]:
        maps = self.resnet_torch(stretched(images, size))
        return [unit_length(maps[group].movedim(1, -1)) for group in (SHARP, FINE, COARSE)]

    # ---- describe

    def describe(self, features: FrameFeatures, queries: Float[Tensor, "B N 3"]) -> PointFeatures:
        """Take a patch of the maps for the iterations, and one feature of those for the first estimate.

        Between two frames they are blended.
        """

        def taken(m: Float[Tensor, "B T h w C"], radius: int) -> Float[Tensor, "B N P P C"]:
            cells = resize_area(queries[..., 1:], features.size, (m.shape[3], m.shape[2]))
            return sample_between_frames(m, queries[..., 0] - features.start, cells, radius)

        patches = [taken(m, self.config.radius) for m in features.maps[:3]]
        return PointFeatures(queries, (*patches, *(taken(m, 0) for m in features.maps[-2:])))

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
        """Yield the first estimate and that after each iteration. Gradients are cut between iterations.

        Points are put on their queries in the first estimate, and nowhere else.
        """
        state = self.first_estimate(features, points)
        yield self._estimate(state, features)
        for _ in range(self.config.iterations if iterations is None else iterations):
            state = self._improved(features, points, State(*(values.detach() for values in state)))
            yield self._estimate(state, features)

    def first_estimate(self, features: FrameFeatures, points: PointFeatures) -> State:
        """Find each point in each frame by itself, and put it on its query in the query's frame."""
        maps, queries = features.maps[-2:], points.queries
        looks = [s[:, :, 0, 0] for s in points.support[-2:]]  # (B, N, C)
        together = max(FRAMES_MATCHED_AT_ONCE // len(features), 1)
        parts = []
        for some in zip(*(look.split(together, dim=1) for look in looks), strict=True):
            fine, coarse = (torch.einsum("bthwc,bnc->btnhw", m, look) for m, look in zip(maps, some, strict=True))
            match = self.match(fine.flatten(0, 2), coarse.flatten(0, 2))
            parts.append([values.unflatten(0, fine.shape[:3]) for values in match])
        cells, hidden, far = (torch.cat(values, dim=2) for values in zip(*parts, strict=True))

        height, width = self.config.resolution
        grid = queries.new_tensor([maps[0].shape[3], maps[0].shape[2]])
        xy = cells.to(queries.dtype) * queries.new_tensor([width, height]) / grid
        frames = torch.arange(features.start, features.stop, device=queries.device)
        here = frames[:, None] == queries[:, None, :, 0].round()  # (B, T, N); halves go to the even frame
        on_query = to_raster(resize_area(queries[:, None, :, 1:], features.size, (width, height)))
        return State(torch.where(here[..., None], on_query, xy), hidden.to(xy.dtype), far.to(xy.dtype))

    def match(self, fine: Float[Tensor, "A h w"], coarse: Float[Tensor, "A i j"]) -> State:
        """Read images of similarities, two for each point and frame. Positions are raster cells of the fine one."""
        enlarged = F.interpolate(coarse[:, None], size=fine.shape[-2:], mode="bilinear", align_corners=False)
        both = torch.cat([enlarged, fine[:, None]], dim=1)  # (A, 2, h, w)
        score = TEMPERATURE * self.cost_conv(both)[:, 0]
        probability = score.flatten(1).softmax(dim=1).view(score.shape)
        values = both.flatten(2)
        logits = self.occ_linear(torch.cat([values.mean(dim=-1), values.amax(dim=-1), values.amin(dim=-1)], dim=-1))
        return State(soft_peak(probability, PEAK_RADIUS), logits[:, 0], logits[:, 1])

    def _improved(self, features: FrameFeatures, points: PointFeatures, state: State) -> State:
        """One iteration."""
        B, _, N = state.hidden.shape
        tokens = self.tokens(features, points, state).flatten(0, 1)  # (B*N, T, W)
        change = self.torch_pips_mixer(tokens).unflatten(0, (B, N)).transpose(1, 2).to(state.xy.dtype)  # (B, T, N, R)
        # the refiner speaks of pixels of its own resolution
        return State(
            state.xy + change[..., :2] / self._enlargement(features, state),
            state.hidden + change[..., 2],
            state.far + change[..., 3],
        )

    def tokens(self, features: FrameFeatures, points: PointFeatures, state: State) -> Float[Tensor, "B N T W"]:
        """One token a point and frame: the two logits, what is read of each map's correlation, the motion."""
        height, width = self.config.resolution
        size = state.xy.new_tensor([width, height])
        of_points = state.xy.transpose(1, 2)  # (B, N, T, 2)
        parts = [torch.stack([state.hidden, state.far], dim=-1).transpose(1, 2)]
        for k, reader in zip(COMPARED_IN_TURN, self.cmdtop, strict=True):
            m = features.maps[k]
            cells = from_raster(of_points * state.xy.new_tensor([m.shape[3], m.shape[2]]) / size)
            volume = correlation_volume(m, cells, points.support[k], self.config.radius, outside="zero")
            parts.append(reader(volume.flatten(0, 2)).unflatten(0, volume.shape[:3]))
        unit = size / self._enlargement(features, state)
        motion = fourier_embedding(to_neighbours(state.xy) / unit.repeat(2), MOTION_FREQUENCIES)
        return torch.cat([*parts, motion.transpose(1, 2)], dim=-1)

    def _enlargement(self, features: FrameFeatures, state: State) -> Float[Tensor, "2"]:
        """(x, y) of the resolution of the iterations over that of the first estimate."""
        used, unit = resolutions(self.config, features.size)[-1], self.config.resolution
        return state.xy.new_tensor([used[1] / unit[1], used[0] / unit[0]])

    def _estimate(self, state: State, features: FrameFeatures) -> Estimate:
        height, width = self.config.resolution
        xy = resize_area(from_raster(state.xy), (width, height), features.size)
        return Estimate(xy, -state.hidden, -state.far)


def released_state(model: LocoTrack, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Drop the prefix that released checkpoints have before every key."""
    return {key.removeprefix("model."): value for key, value in state.items()}


def initialise(model: LocoTrack, seed: int) -> None:
    """Set the weights as before training, all from one seed; the refiner's first changes are small."""
    mixer = model.torch_pips_mixer
    initialise_tracker(model, model.resnet_torch, mixer, [mixer.output_proj], seed)
