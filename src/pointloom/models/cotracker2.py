"""CoTracker, version 2: tracking points jointly, window by window (Karaev et al. 2023).

One network. v2 and v2.1 are two values of one configuration, with windows of 8 and of 16 frames. What differs from its
successor CoTracker3:

    appearance  each point has one feature vector a frame, which is refined along with the position
    comparison  that vector with the map around the position, at four scales; no patch around the query
    tokens      say where the first position of the window lies in the picture, and how far the point went since
    answers     visibility alone, read from the refined feature; there is no confidence
    masks       points that no window has reached are hidden from the others, and others from them

From top to bottom: configuration, embeddings, correlation, and the model with its three functions.

    frames --encode--> pyramid of feature maps
    query  --describe--> the feature at its place
    estimate --iterate--> correlation of each point's feature with the map around it -> tokens -> transformer
                          -> a better estimate and a better feature, `iterations` times

Keys and shapes of the state dict are those of the official checkpoints. Axes: B videos, T frames of a window, N points,
V virtual tracks, C channels, E width of a token, P positions of a patch's side.
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
from pointloom.models.base import Estimate, FrameFeatures, Model, ModelInfo, PointFeatures
from pointloom.models.encoders import ResidualEncoder, Resizing
from pointloom.models.layers import (
    PEAK_NUMBERS,
    UpdateFormer,
    blend,
    correlation_peak,
    initialise_tracker,
    neighbourhood,
    pyramid,
    sample_patches,
    time_table,
    unit_length,
)

DISPLACEMENT_FREQUENCIES = 32
FREQUENCY_STEP = 1000 / 32  # radians a cell
LOGIT_OF_THE_UNSEEN = 10.0  # taken for the visibility of a point that has not been looked at yet
FIRST_SHARE = 0.5  # before training, of the way to the finest level's peak; half as much at each coarser one
CERTAIN = 40.0  # logit of a probability that is 1 in any precision


@dataclass(frozen=True)
class CoTracker2Config:
    """Every size of the network. The defaults are the released configuration of v2."""

    # how it is driven
    window: int = 8  # frames of a window; half of them overlap with the next one
    iterations: int = 6

    # what it sees: see `Resizing`. The table of positions covers `resolution` (height, width), whatever the rule
    resize: Literal["stretch", "as_is"] = "stretch"
    resolution: tuple[int, int] = (384, 512)
    stride: int = 4
    channels: int = 128
    equal_length: bool = False  # scales features to length sqrt(channels) (not in the paper)

    # correlation
    levels: int = 4
    radius: int = 3  # positions around the estimate: (2 radius + 1)^2
    # not in the paper: estimates step towards each level's peak by learned shares; the query's own feature is compared
    peaks: bool = False
    compared: Literal["refined", "query"] = "refined"

    # transformer
    hidden: int = 384
    heads: int = 8
    mlp_ratio: int = 4
    time_depth: int = 6
    space_depth: int = 6
    virtual_tracks: int = 64

    stored_tables: bool = True  # tables of times and places are in the state dict, as released, though computed

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work together."""
        if self.window < 2 or self.window % 2:
            raise OptionError(f"window must be even, so that half of it can overlap; got {self.window}.")
        if any(side % self.stride or side < 2 * self.stride for side in self.resolution):
            raise OptionError(
                f"the height and width of resolution must be multiples of the stride {self.stride}, and at least twice "
                f"that; got {self.resolution}."
            )
        if self.hidden % self.heads:
            raise OptionError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads}).")
        if self.virtual_tracks < 1 or self.space_depth < 1 or self.time_depth % self.space_depth:
            raise OptionError(
                f"attention across tracks needs virtual tracks (got {self.virtual_tracks}) and a time depth "
                f"({self.time_depth}) that is a multiple of the space depth ({self.space_depth})."
            )
        if self.peaks and not self.equal_length:
            raise OptionError("peaks are those of cosines: set equal_length as well.")
        if self.token_width % 4:
            raise OptionError(
                f"sines and cosines of x and of y need tokens whose width is a multiple of 4, got {self.token_width} "
                f"with {self.channels} channels and {self.levels} levels of radius {self.radius}."
            )

    @property
    def step(self) -> int:
        """New frames of a window."""
        return self.window // 2

    @property
    def token_width(self) -> int:
        """The displacement, the correlation (and its peaks), the feature, and two flags."""
        displacement = 2 + 4 * DISPLACEMENT_FREQUENCIES
        per_level = (2 * self.radius + 1) ** 2 + PEAK_NUMBERS * self.peaks
        return displacement + self.levels * per_level + self.channels + 2


V2 = CoTracker2Config()
V2_1 = CoTracker2Config(window=16)
TINY = CoTracker2Config(
    window=16,
    iterations=4,
    resolution=(288, 384),
    channels=48,
    equal_length=True,
    peaks=True,
    compared="query",
    hidden=128,
    heads=4,
    time_depth=3,
    space_depth=1,
    virtual_tracks=16,
    stored_tables=False,
)


# -------------------------------------------------------------------------------------------------------- embeddings


def place_table(width: int, rows: int, columns: int) -> Float[Tensor, "1 width rows columns"]:
    """For each cell of a map, sines and cosines of its column, then those of its row; kept in float32."""
    of_column, of_row = (time_table(count, width // 2)[0] for count in (columns, rows))  # (count, width / 2)
    across = of_column[None].expand(rows, -1, -1)
    down = of_row[:, None].expand(-1, columns, -1)
    return torch.cat([across, down], dim=-1).movedim(-1, 0)[None].contiguous()


def displacement_embedding(d: Float[Tensor, "*A 2"]) -> Float[Tensor, "*A E"]:
    """[dx, dy, sin and cos in turn of k f dx for k = 0, 1, ..., the same of dy]; f is `FREQUENCY_STEP`."""
    frequencies = FREQUENCY_STEP * torch.arange(DISPLACEMENT_FREQUENCIES, device=d.device, dtype=d.dtype)
    angle = d[..., None] * frequencies  # (*A, 2, K)
    return torch.cat([d, torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-3)], dim=-1)


def correlation(
    maps: Float[Tensor, "B T h w C"],
    cells: Float[Tensor, "B T N 2"],
    feature: Float[Tensor, "B T N C"],
    radius: int,
) -> Float[Tensor, "B T N PP"]:
    """Products, over sqrt(C), of a feature with the map at (2 radius + 1)^2 places around a position, x offset slow."""
    B, T, N, C = feature.shape
    frame = torch.arange(T, device=cells.device).repeat_interleave(N).expand(B, -1)  # (B, T*N)
    pixels, fraction = neighbourhood(maps, frame, cells.reshape(B, T * N, 2), radius)  # (B, T*N, X, Y, C)
    products = pixels @ feature.reshape(B, T * N, 1, C, 1).to(pixels.dtype)  # (B, T*N, X, Y, 1)
    return blend(products, fraction.to(products.dtype)).view(B, T, N, -1) / C**0.5


# ------------------------------------------------------------------------------------------------------------- model


class CoTracker2(Model):
    """The tracker. `encode`, `describe`, `refine`: see `pointloom.models.base`."""

    time_emb: Tensor
    pos_emb: Tensor

    def __init__(self, config: CoTracker2Config) -> None:
        super().__init__()
        self.config = config
        self.resizing = Resizing(config.resize, config.resolution, config.stride)
        E, C = config.token_width, config.channels
        rows, columns = (side // config.stride for side in config.resolution)
        self.register_buffer("time_emb", time_table(config.window, E), persistent=config.stored_tables)
        self.register_buffer("pos_emb", place_table(E, rows, columns), persistent=config.stored_tables)
        self.fnet = ResidualEncoder(C, config.stride)
        self.updateformer = UpdateFormer(
            E,
            {"flow_head": 2 + C + config.levels * config.peaks},
            hidden=config.hidden,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            time_depth=config.time_depth,
            space_depth=config.space_depth,
            virtual_tracks=config.virtual_tracks,
            lonely_mean=True,
        )
        self.norm = nn.LayerNorm(C, eps=1e-5)
        self.track_feat_updater = nn.Sequential(nn.Linear(C, C), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(C, 1))

    @property
    def info(self) -> ModelInfo:
        """What a driver needs to know."""
        c = self.config
        return ModelInfo(
            family="CoTracker",
            modes=("windowed",),
            window=c.window,
            step=c.step,
            iterations=c.iterations,
            outputs=("visibility",),
            parameters=sum(p.numel() for p in self.parameters()),
            code_licence="Apache-2.0",
            weights_licence="unknown",
            citation="Karaev et al. 2023, CoTracker: It is Better to Track Together",
        )

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) at which the network sees a video of this (width, height)."""
        return self.resizing.input_size(size)

    # ---- encode

    def encode(self, frames: UInt8[Tensor, "B T H W 3"] | Float[Tensor, "B T H W 3"], start: int = 0) -> FrameFeatures:
        """Compute the feature pyramid of each frame (RGB, 0..255)."""
        B, T, H, W, _ = frames.shape
        images = self.resizing.resized(frames.flatten(0, 1).movedim(-1, 1).to(self.time_emb.dtype))  # (B*T, 3, h, w)
        (finest,) = self.fnet(2 * (images / 255) - 1)
        finest = finest.movedim(1, -1)
        if self.config.equal_length:
            finest = unit_length(finest) * self.config.channels**0.5
        maps = pyramid(finest, self.config.levels)
        return FrameFeatures(
            tuple(m.contiguous().unflatten(0, (B, T)) for m in maps),
            size=(W, H),
            input=(images.shape[-1], images.shape[-2]),
            start=start,
        )

    # ---- describe

    def describe(self, features: FrameFeatures, queries: Float[Tensor, "B N 3"]) -> PointFeatures:
        """Take the feature at each query."""
        frame = queries[..., 0].long() - features.start
        cells = self.resizing.to_cells(queries[..., 1:], features.size)
        return PointFeatures(queries, (sample_patches(features.maps[0], frame, cells, 0),))

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
        """Refine an estimate of one window step by step. Gradients of positions are cut between steps.

        Where the prior's confidence logit is zero the point counts as not looked at yet. Features begin at the queries
        in every window; positions and visibility are all that one window hands to the next.
        """
        start = prior or Estimate.at_queries(points.queries, len(features))
        cells = self.resizing.to_cells(start.xy, features.size).detach()
        feature = points.support[0][:, :, 0, 0]  # (B, N, C)
        if points.reached is not None:
            feature = feature * points.reached[..., None]
        feature = at_query = feature[:, None].expand(-1, len(features), -1, -1).to(cells.dtype)
        flags = torch.stack([self._asked_for(features, points).to(cells.dtype), self._seen_before(start)], dim=-1)
        fixed = self._place(cells[:, 0])[:, :, None] + self.time_emb[:, None]  # (B, N, T, E)
        looked_at, looking = self._masks(points.reached, attended, frames=len(features))
        for _ in range(self.config.iterations if iterations is None else iterations):
            compared = feature if self.config.compared == "refined" else at_query
            volumes = self.correlations(features.maps, cells, compared)
            peaks = [self._peak(volume) for volume in volumes] if self.config.peaks else []
            tokens = self.tokens(cells, [*volumes, *peaks], feature, flags) + fixed
            change = self.updateformer(tokens, looked_at=looked_at, looking=looking)
            change = change.transpose(1, 2).to(cells.dtype)  # (B, T, N, 2 + C (+ levels))
            moved = cells + change[..., :2]
            if peaks:
                moved = moved + self._towards(peaks, change[..., 2 + self.config.channels :])
            appearance = change[..., 2 : 2 + self.config.channels]
            feature = feature + self.track_feat_updater(self.norm(appearance)).to(cells.dtype)
            logit = self.vis_predictor(feature)[..., 0].to(cells.dtype)
            yield Estimate(self.resizing.to_pixels(moved, features.size), logit, torch.full_like(logit, CERTAIN))
            cells = moved.detach()

    def correlations(
        self,
        maps: Sequence[Float[Tensor, "B T _h _w C"]],
        cells: Float[Tensor, "B T N 2"],
        feature: Float[Tensor, "B T N C"],
    ) -> list[Float[Tensor, "B T N PP"]]:
        """Compare a feature with what surrounds the estimate, at every level."""
        return [correlation(m, cells / 2**k, feature, self.config.radius) for k, m in enumerate(maps)]

    def tokens(
        self,
        cells: Float[Tensor, "B T N 2"],
        comparisons: Sequence[Float[Tensor, "B T N _P"]],
        feature: Float[Tensor, "B T N C"],
        flags: Float[Tensor, "B T N 2"],
    ) -> Float[Tensor, "B N T E"]:
        """One token a point and frame: displacement in this window, correlation at all levels, feature and flags."""
        displacement = displacement_embedding(cells - cells[:, :1])
        return torch.cat([displacement, *comparisons, feature, flags], dim=-1).transpose(1, 2)

    def _peak(self, volume: Float[Tensor, "B T N PP"]) -> Float[Tensor, "B T N 4"]:
        return correlation_peak(volume / self.config.channels**0.5).to(volume.dtype)  # features have length sqrt(C)

    def _towards(
        self, peaks: Sequence[Float[Tensor, "B T N 4"]], shares: Float[Tensor, "B T N L"]
    ) -> Float[Tensor, "B T N 2"]:
        """Sum the ways to the peaks of all levels, in cells of the finest, each by its share of the whole way."""
        ways = [self.config.radius * 2**k * peak[..., :2].detach() for k, peak in enumerate(peaks)]
        return (shares[..., None] * torch.stack(ways, dim=-2)).sum(-2)

    def _asked_for(self, features: FrameFeatures, points: PointFeatures) -> Bool[Tensor, "B T N"]:
        """True from each point's query on, but not where a window overlaps with the one before it.

        A driver whose step is smaller lets windows overlap by more; what counts as new stays the second half.
        """
        frames = torch.arange(features.start, features.stop, device=points.queries.device)
        begun = points.frame[:, None] <= frames[None, :, None]
        if features.start == 0:
            return begun
        overlap_stop = features.start + self.config.window - self.config.step
        return begun & (frames >= overlap_stop)[None, :, None]

    @staticmethod
    def _seen_before(start: Estimate) -> Float[Tensor, "B T N"]:
        return torch.where(start.confidence_logit == 0, LOGIT_OF_THE_UNSEEN, start.visibility_logit)

    def _place(self, cells: Float[Tensor, "B N 2"]) -> Float[Tensor, "B N E"]:
        """Read the table of positions, between its cells and with its edge repeated."""
        last = cells.new_tensor([self.pos_emb.shape[3] - 1, self.pos_emb.shape[2] - 1])
        grid = (2 * cells / last - 1).flatten(0, 1)[None, None]  # (1, 1, B*N, 2)
        read = F.grid_sample(self.pos_emb.to(cells.dtype), grid, padding_mode="border", align_corners=True)
        return read[0, :, 0].T.unflatten(0, cells.shape[:2])  # (B, N, E)

    def _masks(
        self, reached: Bool[Tensor, "B N"] | None, attended: Bool[Tensor, "B T N"] | None, *, frames: int
    ) -> tuple[Bool[Tensor, "B T _V _N"] | None, Bool[Tensor, "B T _N _V"] | None]:
        """Say which virtual tracks look at which points, and which points look at which virtual tracks.

        Points that are not reached do neither. As released, whom a mask is for is told by its length; so with as many
        points as virtual tracks it hides, in place of point n from all virtual tracks, all points from virtual track n.
        """
        looked_at = looking = None
        if reached is not None:
            looking = reached[:, None, :, None].expand(-1, frames, -1, -1)  # (B, T, N, 1)
            mistaken = reached.shape[1] == self.config.virtual_tracks
            looked_at = looking if mistaken else looking.transpose(2, 3)
        if attended is not None:
            seen = attended[:, :, None]  # (B, T, 1, N)
            looked_at = seen if looked_at is None else looked_at & seen
        return looked_at, looking


def initialise(model: CoTracker2, seed: int) -> None:
    """Set the weights as before training, all from one seed. With `peaks` the first changes are towards these."""
    initialise_tracker(model, model.fnet, model.updateformer, model.updateformer.output_layers(), seed)
    if model.config.peaks:
        shares = model.updateformer.output_layers()[0].bias[-model.config.levels :]
        with torch.no_grad():
            shares.copy_(FIRST_SHARE * 0.5 ** torch.arange(len(shares)))
