"""TAPNext: track points by predicting their tokens, frame after frame (Zholus et al. 2025, arXiv:2504.05579).

One network. TAPNext, BootsTAPNext and TAPNext++ (the same network trained on videos of 1024 frames, Jung et al. 2026,
arXiv:2604.10582) differ in their weights. It matches nothing and refines nothing: a frame is cut into patches, each
patch and each point is a token, and every block lets each token remember its own past, then lets the tokens of a frame
look at each other. So it is causal: what it knows of the past is one state a token and block, which a driver carries
from call to call.

From top to bottom: configuration, positions of queries, the recurrent half of a block, its attention, the reading of
what the heads say, the model with its three functions, and the released files.

    frames --encode--> tokens of patches, with their positions
    query  --describe--> the token that stands for the point in the frame of its query
    --iterate--> tokens of patches and points, and the state of each -> blocks -> for each point: logits of 256 columns,
                 256 rows, and of being visible

Before the frame of its query a point has the token `unknown`, after it the token `mask`: where it is then is for the
network to say. Points look at each other and are looked at by patches, so every answer depends on which points are
tracked together, also on those that have not begun. Two ways to begin were published: all points are there from the
first frame on (mode `full`, as TAP-Vid is evaluated), or points with the same query frame have a walk of their own
(`causal`, if all queries lie in one frame). In causal mode a later point begins, with nothing remembered, among patches
that remember the frames before.

Keys and shapes of the state dict are those of the official checkpoints, and so are some ways that look odd; each has a
comment. Axes: B videos, T frames, P patches, N points, M = P + N tokens, C width, E width of the recurrence, d width of
a head, K bins.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from pointloom.errors import OptionError
from pointloom.geometry import resize_area
from pointloom.models.base import Estimate, FrameFeatures, Memory, Model, ModelInfo, PointFeatures
from pointloom.models.layers import attend

PATCH = 8  # pixels of a patch's side
TAPS = 4  # frames that the convolution along time sees, the present one included
MLP_RATIO = 4
DECAY_RATE = 8.0  # Griffin's constant c: a gate that is wide open forgets so many times as fast
SLOWEST_DECAY, FASTEST_DECAY = 0.999, 0.9  # what an untrained channel keeps a frame with its gate wide open

BINS = 256  # columns, and rows, that a frame of any size is divided into: the logits of a position
HEAD_WIDTH = 256
TEMPERATURE = 2.0  # of the logits where a position is read
NEAR_BINS = 20  # on each side of the best one that count
CERTAIN_BINS = 8  # distance from the position within which the probability counts as confidence

FRAMES_AT_ONCE = 8  # bounds memory, changes nothing

Size = tuple[int, int]  # (height, width) in this file


@dataclass(frozen=True)
class TapNextConfig:
    """Every size of the network. The defaults are those of all released models."""

    # what it sees
    resolution: Size = (256, 256)  # frames are stretched to this (height, width)
    native: Size = (256, 256)  # the tables of positions are made for frames of this (height, width)
    stored_table: bool = True  # the table of queries is in the state dict, as released, though it can be computed

    # network
    width: int = 768
    recurrent_width: int = 768
    depth: int = 12
    heads: int = 12  # of the attention; also the groups of the recurrent gates

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work together."""
        if self.width % self.heads or self.recurrent_width % self.heads:
            raise OptionError(
                f"width ({self.width}) and recurrent_width ({self.recurrent_width}) must be multiples of heads "
                f"({self.heads})."
            )
        if self.width % 4 or self.width < 8:
            raise OptionError(f"width must be a multiple of 4, and at least 8, got {self.width}.")
        if min(*self.resolution, *self.native) < PATCH:
            raise OptionError(
                f"resolution {self.resolution} and native {self.native} must be at least {PATCH} x {PATCH} pixels."
            )


TAPNEXT = TapNextConfig()
TAPNEXT_512 = TapNextConfig(resolution=(512, 512))
TINY = TapNextConfig(
    resolution=(128, 128),
    native=(128, 128),
    stored_table=False,
    width=128,
    recurrent_width=128,
    depth=6,
    heads=4,
)


# --------------------------------------------------------------------------------------------------------- positions


def query_table(size: Size, width: int) -> Float[Tensor, "1 cells C"]:
    """Sines and cosines of x, then of y, at width/4 wavelengths, for every pixel, rows one after the other."""
    steps = width // 4
    omega = 10000.0 ** -(torch.arange(steps, dtype=torch.float64) / (steps - 1))

    def waves(length: int) -> Tensor:
        angle = torch.arange(length, dtype=torch.float64)[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    height, columns = size
    x = waves(columns)[None].expand(height, -1, -1)
    y = waves(height)[:, None].expand(-1, columns, -1)
    return torch.cat([x, y], dim=-1).flatten(0, 1)[None].float()


def read_table(table: Float[Tensor, "1 cells C"], size: Size, xy: Float[Tensor, "B N 2"]) -> Float[Tensor, "B N C"]:
    """Read a table of all pixels between pixels (bilinear). Outside it is zero, so a query on the border has less."""
    height, width = size
    corner = xy.floor()
    fraction = (xy - corner).to(table.dtype)
    total = torch.zeros(*xy.shape[:-1], table.shape[-1], dtype=table.dtype, device=table.device)
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = corner[..., 0] + right, corner[..., 1] + below
        across = fraction[..., 0] if right else 1 - fraction[..., 0]
        down = fraction[..., 1] if below else 1 - fraction[..., 1]
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        row = y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()
        total = total + (across * down * inside)[..., None] * table[0][row]
    return total


def stretched_positions(table: Float[Tensor, "1 cells C"], size: Size) -> Float[Tensor, "1 _cells C"]:
    """Bring the positions of patches to a frame of (height, width) patches.

    As released, only their number decides: positions of as many patches in another shape are taken in their order.
    """
    cells = table.shape[1]
    if cells == size[0] * size[1]:
        return table
    side = round(cells**0.5)
    if side**2 != cells:
        raise OptionError(
            f"this network has positions for {cells} patches, which are no square and cannot be stretched to "
            f"{size[0]} x {size[1]} patches. Use a resolution with {cells} patches of {PATCH} x {PATCH} pixels."
        )
    square = table.unflatten(1, (side, side)).movedim(-1, 1)
    precise = square.to(torch.promote_types(table.dtype, torch.float32))
    stretched = F.interpolate(precise, size=size, mode="bicubic", align_corners=False)
    return stretched.to(table.dtype).flatten(2).movedim(1, -1)


# --------------------------------------------------------------------------------------------- block: the recurrence


class RmsNorm(nn.Module):
    """Divide by the root of the mean square; the learned factor is stored less one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "*A C"]) -> Float[Tensor, "*A C"]:
        """Norm the last axis."""
        return x * (x.square().mean(dim=-1, keepdim=True) + 1e-6).rsqrt() * (1 + self.scale)


class TemporalConv(nn.Module):
    """A convolution along time, each channel on its own, that sees the past only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(TAPS, width))
        self.b = nn.Parameter(torch.zeros(width))

    def forward(
        self, x: Float[Tensor, "B T M E"], earlier: Float[Tensor, "B M taps E"]
    ) -> tuple[Float[Tensor, "B T M E"], Float[Tensor, "B M taps E"]]:
        """Return the result, and the last frames of the input, oldest first."""
        T = x.shape[1]
        seen = torch.cat([earlier.movedim(2, 1).to(x.dtype), x], dim=1)
        out = self.b + sum(self.w[j] * seen[:, j : j + T] for j in range(TAPS))
        return out, seen[:, -(TAPS - 1) :].movedim(1, 2)


class GroupedLinear(nn.Module):
    """A linear layer for each group of consecutive channels."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(groups, width // groups, width // groups))
        self.b = nn.Parameter(torch.zeros(groups, width // groups))

    def forward(self, x: Float[Tensor, "*A E"]) -> Float[Tensor, "*A E"]:
        """Map the last axis."""
        grouped = x.unflatten(-1, self.b.shape)
        return (torch.einsum("...gi,gij->...gj", grouped, self.w) + self.b).flatten(-2)


def root(v: Tensor) -> Tensor:
    """Square root whose slope is at most 1000, as released: a channel that forgets nothing has an infinite one."""
    slope = (4 * v.detach()).clamp(min=1e-6).rsqrt()
    return v.detach().sqrt() + (v - v.detach()) * slope


class GatedRecurrence(nn.Module):
    """Griffin's real-gated linear recurrent unit (De et al. 2024): h = a h + sqrt(1 - a^2) i x, channel by channel.

    The input decides by gates how much of it enters (i) and how much of the past stays (a). In the first frame of a
    token there is no past to make room for, and the square root is left out.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.a_param = nn.Parameter(torch.zeros(width))
        self.input_gate = GroupedLinear(width, groups)
        self.a_gate = GroupedLinear(width, groups)

    def forward(
        self, x: Float[Tensor, "B T M E"], state: Float[Tensor, "B M E"], begun: Bool[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B T M E"], Float[Tensor, "B M E"]]:
        """Return h of every frame, and that of the last one in float32 or better, in which it adds up."""
        precise = torch.promote_types(x.dtype, torch.float32)
        enters = self.input_gate(x).to(precise).sigmoid()
        forgets = self.a_gate(x).to(precise).sigmoid()
        log_a = -DECAY_RATE * forgets * F.softplus(self.a_param.to(precise))
        room = root(-torch.expm1(2 * log_a))  # of 1 - a^2
        first = (torch.arange(x.shape[1], device=x.device) == 0)[None, :, None] & ~begun[:, None]  # (B, T, M)
        room = torch.where(first[..., None], 1.0, room)
        h = state.to(precise)
        states = []
        for a, entering in zip(log_a.exp().unbind(1), (room * enters * x).unbind(1), strict=True):
            h = a * h + entering
            states.append(h)
        return torch.stack(states, dim=1).to(x.dtype), h


class RecurrentBlock(nn.Module):
    """Griffin's recurrent block: convolution and recurrence, gated by a second branch."""

    def __init__(self, width: int, recurrent_width: int, groups: int) -> None:
        super().__init__()
        self.linear_y = nn.Linear(width, recurrent_width)
        self.linear_x = nn.Linear(width, recurrent_width)
        self.linear_out = nn.Linear(recurrent_width, width)
        self.conv_1d = TemporalConv(recurrent_width)
        self.rg_lru = GatedRecurrence(recurrent_width, groups)

    def forward(
        self, x: Float[Tensor, "B T M C"], past: Float[Tensor, "B M rows E"], begun: Bool[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B T M C"], Float[Tensor, "B M rows E"]]:
        """Return the result and the new past: the state of the recurrence, then what the convolution saw."""
        gate = F.gelu(self.linear_y(x), approximate="tanh")
        y, earlier = self.conv_1d(self.linear_x(x), past[:, :, 1:])
        y, state = self.rg_lru(y, past[:, :, 0], begun)
        return self.linear_out(y * gate), torch.cat([state[:, :, None], earlier.to(state.dtype)], dim=2)


class TwoLinear(nn.Module):
    """Two linear layers of the same input, in one tensor."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, inputs, outputs))
        self.b = nn.Parameter(torch.zeros(2, 1, 1, outputs))

    def forward(self, x: Float[Tensor, "B T M C"]) -> tuple[Float[Tensor, "B T M D"], Float[Tensor, "B T M D"]]:
        """Map the last axis in both ways."""
        return x @ self.w[0] + self.b[0], x @ self.w[1] + self.b[1]


class GatedMlp(nn.Module):
    """Two linear layers, the GELU of the first times the second, then a third."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffw_up = TwoLinear(width, MLP_RATIO * width)
        self.ffw_down = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Float[Tensor, "B T M C"]) -> Float[Tensor, "B T M C"]:
        """Map the last axis."""
        gate, value = self.ffw_up(x)
        return self.ffw_down(F.gelu(gate, approximate="tanh") * value)


class RecurrentHalf(nn.Module):
    """Each token on its own, along time: the recurrent block, then an MLP; norms before both."""

    def __init__(self, config: TapNextConfig) -> None:
        super().__init__()
        self.temporal_pre_norm = RmsNorm(config.width)
        self.recurrent_block = RecurrentBlock(config.width, config.recurrent_width, config.heads)
        self.channel_pre_norm = RmsNorm(config.width)
        self.mlp_block = GatedMlp(config.width)

    def forward(
        self, x: Float[Tensor, "B T M C"], past: Float[Tensor, "B M rows E"], begun: Bool[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B T M C"], Float[Tensor, "B M rows E"]]:
        """Return the tokens and the new past."""
        y, past = self.recurrent_block(self.temporal_pre_norm(x), past, begun)
        x = x + y
        return x + self.mlp_block(self.channel_pre_norm(x)), past


# ---------------------------------------------------------------------------------------------- block: the attention


class SelfAttention(nn.Module):
    """Multi-head attention of the tokens of a frame to each other; query, key and value come from one projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "A M C"], seen: Bool[Tensor, "A M"] | None) -> Float[Tensor, "A M C"]:
        """Attend to the tokens that can be seen (None: to all)."""
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (A, heads, M, d)
        bias = None
        if seen is not None:
            hidden = ~seen[:, None, None]
            bias = torch.zeros_like(hidden, dtype=q.dtype).masked_fill(hidden, torch.finfo(q.dtype).min)
        return self.out_proj(attend(q, k, v, bias).transpose(1, 2).flatten(2))


class AttentionHalf(nn.Module):
    """Each frame on its own: attention, then an MLP; layer norms before both."""

    def __init__(self, config: TapNextConfig) -> None:
        super().__init__()
        C = config.width
        self.ln_1 = nn.LayerNorm(C, eps=1e-6)
        self.self_attention = SelfAttention(C, config.heads)
        self.ln_2 = nn.LayerNorm(C, eps=1e-6)
        # the exact GELU, in the recurrent half that by tanh: as released
        layers = {"0": nn.Linear(C, MLP_RATIO * C), "gelu": nn.GELU(), "3": nn.Linear(MLP_RATIO * C, C)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Float[Tensor, "A M C"], seen: Bool[Tensor, "A M"] | None) -> Float[Tensor, "A M C"]:
        """Return the tokens."""
        x = x + self.self_attention(self.ln_1(x), seen)
        return x + self.mlp(self.ln_2(x))


class Block(nn.Module):
    """The recurrence of each token, then the attention of each frame."""

    def __init__(self, config: TapNextConfig) -> None:
        super().__init__()
        self.ssm_block = RecurrentHalf(config)
        self.vit_block = AttentionHalf(config)

    def forward(
        self,
        x: Float[Tensor, "B T M C"],
        past: Float[Tensor, "B M rows E"],
        begun: Bool[Tensor, "B M"],
        seen: Bool[Tensor, "B T M"] | None,
    ) -> tuple[Float[Tensor, "B T M C"], Float[Tensor, "B M rows E"]]:
        """Return the tokens and the new past."""
        B, T = x.shape[:2]
        x, past = self.ssm_block(x, past, begun)
        x = self.vit_block(x.flatten(0, 1), None if seen is None else seen.flatten(0, 1))
        return x.unflatten(0, (B, T)), past


# ------------------------------------------------------------------------------------------------- what the heads say


def head(width: int, outputs: int) -> nn.Sequential:
    """Three linear layers with layer norms and exact GELUs between them."""
    hidden = HEAD_WIDTH
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.LayerNorm(hidden, eps=1e-5),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.LayerNorm(hidden, eps=1e-5),
        nn.GELU(),
        nn.Linear(hidden, outputs),
    )


class Logits(NamedTuple):
    """What the heads say of each point in each frame.

    position  of the rows (y), then of the columns (x)
    visible   of the point being visible
    """

    position: Float[Tensor, "B T N 2 K"]
    visible: Float[Tensor, "B T N"]


def peak(logits: Float[Tensor, "*A K"]) -> Float[Tensor, "*A"]:
    """Mean bin, weighted by the probability of the bins near the best one. Bin 0 is the first pixel's centre."""
    bins = torch.arange(logits.shape[-1], device=logits.device)
    near = (bins - logits.argmax(dim=-1, keepdim=True)).abs() <= NEAR_BINS
    weight = (logits / TEMPERATURE).softmax(dim=-1) * near
    return (weight * bins).sum(dim=-1) / weight.sum(dim=-1)


def certainty(
    logits: Float[Tensor, "*A 2 K"], yx: Float[Tensor, "*A 2"], radius: int = CERTAIN_BINS
) -> Float[Tensor, "*A"]:
    """Probability of the bins within `radius` of a position.

    As released, the disc is transposed: what lies above counts where what lies to the left should. That changes much
    near a border, where the window of 17 x 17 bins is moved into the frame and the disc is not in its middle.
    """
    K = logits.shape[-1]
    window = torch.arange(2 * CERTAIN_BINS + 1, device=logits.device)
    begin = (yx - CERTAIN_BINS).floor().clamp(0, K - len(window))
    bins = begin[..., None] + window  # (*A, 2, 17)
    y, x = logits.softmax(dim=-1).gather(-1, bins.long()).unbind(-2)
    above, left = (bins - yx[..., None]).square().unbind(-2)
    disc = above[..., None, :] + left[..., :, None] <= radius**2 + 1e-8
    return (y[..., :, None] * x[..., None, :] * disc).sum(dim=(-2, -1))


# ------------------------------------------------------------------------------------------------------------- model


class TapNext(Model):
    """The tracker. `encode`, `describe`, `refine`: see `pointloom.models.base`."""

    query_pos_embed: Tensor

    def __init__(self, config: TapNextConfig) -> None:
        super().__init__()
        self.config = config
        C = config.width
        patches = (config.native[0] // PATCH) * (config.native[1] // PATCH)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 1, C))
        self.unknown_token = nn.Parameter(torch.zeros(1, 1, C))
        self.point_query_token = nn.Parameter(torch.zeros(1, 1, 1, C))
        self.image_pos_emb = nn.Parameter(torch.zeros(1, patches, C))
        self.register_buffer("query_pos_embed", query_table(config.native, C), persistent=config.stored_table)
        self.lin_proj = nn.Conv2d(3, C, PATCH, stride=PATCH)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.encoder_norm = nn.LayerNorm(C, eps=1e-5)
        self.visible_head = head(C, 1)
        self.coordinate_head = head(C, 2 * BINS)

    @property
    def info(self) -> ModelInfo:
        """What a driver needs to know."""
        return ModelInfo(
            family="TAPNext",
            modes=("full", "causal"),
            window=1,
            step=1,
            iterations=1,
            outputs=("visibility", "confidence"),
            parameters=sum(p.numel() for p in self.parameters()),
            code_licence="Apache-2.0",
            weights_licence="unknown",
            citation="Zholus et al. 2025, TAPNext: Tracking Any Point (TAP) as Next Token Prediction",
            confidence_px=CERTAIN_BINS * self.config.resolution[0] / BINS,
        )

    # ---- encode

    def encode(self, frames: UInt8[Tensor, "B T H W 3"] | Float[Tensor, "B T H W 3"], start: int = 0) -> FrameFeatures:
        """Cut frames (RGB, 0..255) into tokens. Rows and columns that do not fill a patch are left out, as released."""
        B, T, H, W, _ = frames.shape
        images = frames.flatten(0, 1).movedim(-1, 1).to(self.mask_token.dtype)  # (B*T, 3, H, W)
        if self.config.resolution != (H, W):
            images = F.interpolate(images, size=self.config.resolution, mode="bilinear", align_corners=False)
        tokens = self.lin_proj(2 * (images / 255) - 1).movedim(1, -1)  # (B*T, h, w, C)
        size = (tokens.shape[1], tokens.shape[2])
        tokens = tokens + stretched_positions(self.image_pos_emb, size).unflatten(1, size)
        height, width = self.config.resolution
        return FrameFeatures((tokens.unflatten(0, (B, T)),), size=(W, H), input=(width, height), start=start)

    # ---- describe

    def describe(self, features: FrameFeatures, queries: Float[Tensor, "B N 3"]) -> PointFeatures:
        """Make the token of each query, from its position alone."""
        height, width = self.config.native
        xy = resize_area(queries[..., 1:], features.size, (width, height))
        tokens = read_table(self.query_pos_embed, self.config.native, xy) + self.point_query_token[0]
        return PointFeatures(queries, (tokens[:, :, None, None],))

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
        """Yield the only estimate there is. Nothing is put on its query; of the prior only the memory counts.

        Confidence is the probability that the network gives to places within 8 px of the position, in a frame of 256 x
        256. The query frame of a point must be a whole number, or the query is never seen.
        """
        memory = None if prior is None else prior.memory
        logits, after = self.logits(features, points, memory or Memory(), attended=attended)
        yield self._estimate(logits, features, points, None if memory is None else after)

    def logits(
        self,
        features: FrameFeatures,
        points: PointFeatures,
        memory: Memory,
        *,
        attended: Bool[Tensor, "B T N"] | None = None,
    ) -> tuple[Logits, Memory]:
        """Return what the heads say, and the memory of the next frames.

        In the memory, rows of points are whether the point has begun and, for each block, the past of its token; what
        is shared is the same past of the patches.
        """
        patches = features.maps[0].flatten(2, 3).to(self.mask_token.dtype)  # (B, T, P, C)
        queried = self.point_tokens(features, points)  # (B, T, N, C)
        B, T, P, _ = patches.shape
        begun, pasts = self._recalled(memory, (B, P + len(points)))
        seen = None
        if attended is not None and not attended.all():
            seen = F.pad(attended, (P, 0), value=True)  # (B, T, M)
        parts = []
        for start in range(0, T, FRAMES_AT_ONCE):
            chunk = slice(start, start + FRAMES_AT_ONCE)
            x = torch.cat([patches[:, chunk], queried[:, chunk]], dim=2)  # (B, T, M, C)
            for i, block in enumerate(self.blocks):
                x, pasts[i] = block(x, pasts[i], begun, None if seen is None else seen[:, chunk])
            begun = torch.ones_like(begun)
            parts.append(self.encoder_norm(x[:, :, P:]))
        x = torch.cat(parts, dim=1)  # (B, T, N, C)
        with torch.autocast(x.device.type, enabled=False):  # 256 bins need more than half precision
            position = self.coordinate_head(x.to(self.mask_token.dtype)).unflatten(-1, (2, BINS))
        after = Memory(
            points=(begun[:, P:].to(x.dtype), *(past[:, P:] for past in pasts)),
            shared=tuple(past[:, :P] for past in pasts),
        )
        return Logits(position, self.visible_head(x)[..., 0]), after

    def point_tokens(self, features: FrameFeatures, points: PointFeatures) -> Float[Tensor, "B T N C"]:
        """Tokens of the points in each frame: unknown before the query, its own in the query's frame, then mask."""
        queries = points.queries
        frame = torch.arange(features.start, features.stop, device=queries.device)[:, None]
        before, here = (compare(frame, queries[:, None, :, 0])[..., None] for compare in (torch.lt, torch.eq))
        own = points.support[0][:, None, :, 0, 0].to(self.mask_token.dtype)  # (B, 1, N, C)
        return torch.where(here, own, torch.where(before, self.unknown_token, self.mask_token))

    def _recalled(self, memory: Memory, tokens: Size) -> tuple[Bool[Tensor, "B M"], list[Float[Tensor, "B M rows E"]]]:
        """Return which tokens have begun, and for each block the past of every token: zeros where it has not.

        Where no point has begun the patches begin anew as well, so that an answer never depends on points of the past.
        """
        B, M = tokens
        if not memory.points:
            zeros = self.mask_token.new_zeros(B, M, TAPS, self.config.recurrent_width)
            return zeros.new_zeros(B, M, dtype=torch.bool), [zeros] * self.config.depth
        point_begun = memory.points[0] > 0  # (B, N)
        patch_begun = point_begun.any(dim=1, keepdim=True).expand(-1, M - point_begun.shape[1])
        begun = torch.cat([patch_begun, point_begun], dim=1)
        rows = zip(memory.shared, memory.points[1:], strict=True)
        return begun, [torch.cat(both, dim=1) * begun[..., None, None] for both in rows]

    def _estimate(
        self, logits: Logits, features: FrameFeatures, points: PointFeatures, memory: Memory | None
    ) -> Estimate:
        position = logits.position.to(points.queries.dtype)
        yx = peak(position)
        sure = certainty(position, yx)
        return Estimate(
            resize_area(yx.flip(-1), (BINS, BINS), features.size),
            logits.visible.to(yx.dtype),
            sure.logit(eps=torch.finfo(sure.dtype).eps),
            memory,
        )


def initialise(model: TapNext, seed: int) -> None:
    """Set the weights as before training, all from one seed. The release says nothing of this; Griffin does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for token in (model.mask_token, model.unknown_token, model.point_query_token, model.image_pos_emb):
            nn.init.normal_(token, std=0.02)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, RmsNorm):
                nn.init.zeros_(module.scale)
            elif isinstance(module, TemporalConv):
                nn.init.normal_(module.w, std=TAPS**-0.5)
                nn.init.zeros_(module.b)
            elif isinstance(module, GroupedLinear | TwoLinear):
                nn.init.normal_(module.w, std=module.w.shape[1] ** -0.5)
                nn.init.zeros_(module.b)
            elif isinstance(module, GatedRecurrence):
                kept = torch.empty_like(module.a_param).uniform_(FASTEST_DECAY, SLOWEST_DECAY)
                module.a_param.data = (-kept.log() / DECAY_RATE).expm1().log()
            elif isinstance(module, SelfAttention):
                nn.init.xavier_uniform_(module.in_proj_weight)
                nn.init.zeros_(module.in_proj_bias)


# ------------------------------------------------------------------------------------------------- the released files

JAX_NAMES = (
    (r"^backbone/", ""),
    (r"^embedding/", "lin_proj/"),
    (r"^pos_embedding$", "image_pos_emb"),
    (r"^Transformer/", ""),
    (r"^encoderblock_", "blocks/"),
    (r"/LayerNorm_0/", "/ln_1/"),
    (r"/LayerNorm_1/", "/ln_2/"),
    (r"/MlpBlock_0/Dense_0/", "/mlp/0/"),
    (r"/MlpBlock_0/Dense_1/", "/mlp/3/"),
    (r"/MultiHeadDotProductAttention_0/out/", "/self_attention/out_proj/"),
    (r"/MultiHeadDotProductAttention_0/", "/self_attention/"),
    (r"^(visible_head|coordinate_head)/layers_", r"\1/"),
    (r"^(encoder_norm|\w+_head/\d|.*/ln_\d)/scale$", r"\1/weight"),  # not those of the recurrent half
    (r"/kernel$", "/weight"),
)


def released_state(model: TapNext, content: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name and shape what a released file holds as this model does. What is not understood keeps its name.

    PyTorch's files (TAPNext++) may put `tapnext.` before each name. JAX's (TAPNext, BootsTAPNext) name layers by path,
    hold linear layers with the inputs first, and query, key and value apart and by head; they lack the table of
    queries, which is computed. They were trained with the GELU by tanh everywhere and slightly other epsilons; like the
    release for PyTorch, this model uses them with its own.
    """
    if not any("/" in name for name in content):
        return {name.removeprefix("tapnext."): value for name, value in content.items()}
    state = {"query_pos_embed": model.query_pos_embed}
    for path, value in content.items():
        name = path
        for pattern, replacement in JAX_NAMES:
            name = re.sub(pattern, replacement, name)
        state[name.replace("/", ".")] = _from_jax(path, value)
    for i in range(model.config.depth):
        attention = f"blocks.{i}.vit_block.self_attention"
        for kind in ("weight", "bias"):
            parts = [f"{attention}.{part}.{kind}" for part in ("query", "key", "value")]
            if all(part in state for part in parts):
                state[f"{attention}.in_proj_{kind}"] = torch.cat([state.pop(part) for part in parts])
    return state


def _from_jax(path: str, value: Tensor) -> Tensor:
    if path.endswith("bias"):
        return value.flatten()  # of all heads
    if not path.endswith("kernel"):
        return value
    if value.ndim == 5:  # of the patches: (1, height, width, inputs, outputs)
        return value[0].permute(3, 2, 0, 1)
    if "/out/" in path:  # (heads, d, outputs)
        return value.flatten(0, -2).T
    return value.flatten(1).T  # (inputs, heads, d) or (inputs, outputs)
