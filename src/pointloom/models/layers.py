"""Layers that several trackers share: sampling of feature maps, correlation, attention, a transformer, embeddings.

Feature maps are channels last, (B, T, h, w, C), so that the features of one position are neighbours in memory.
Patches have the x offset as their first axis and the y offset as their second (CoTracker3's order).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pointloom.errors import OptionError
from pointloom.geometry import to_raster

Outside = Literal["edge", "zero"]
RESETTABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)
PEAK_NUMBERS = 4  # mean x, mean y, largest probability, largest similarity
PEAK_TEMPERATURE = 20.0
NUMBERS_AT_ONCE = 2**21  # of features that are read before they are multiplied: 8 MB


def neighbourhood(
    maps: Float[Tensor, "B T h w C"],
    frame: Int[Tensor, "B K"],
    xy: Float[Tensor, "B K 2"],
    radius: int,
) -> tuple[Float[Tensor, "B K X Y C"], Float[Tensor, "B K 2"]]:
    """Read the whole pixels around positions of a feature map, and the sub-pixel remainder of each position.

    Returns (2 radius + 2)^2 feature vectors, from floor(xy) - radius to floor(xy) + radius + 1. Outside the map the
    edge is repeated, so blending these pixels equals bilinear sampling with every coordinate clamped to the map.
    """
    B, T, h, w, C = maps.shape
    corner = xy.detach().floor()
    offsets = torch.arange(-radius, radius + 2, device=xy.device)
    # a corner further out reads nothing but the edge, as one at these limits does; clamping keeps the integers in range
    first, last = -(radius + 1), radius - 1
    x = (corner[..., 0].clamp(first, w + last).long()[..., None] + offsets).clamp(0, w - 1)  # (B, K, X)
    y = (corner[..., 1].clamp(first, h + last).long()[..., None] + offsets).clamp(0, h - 1)  # (B, K, Y)
    image = torch.arange(B, device=xy.device)[:, None] * T + frame.clamp(0, T - 1)  # (B, K)
    index = (image[..., None, None] * h + y[..., None, :]) * w + x[..., :, None]  # (B, K, X, Y)
    # `gather` reads whole rows like an embedding, two to four times as fast on a CPU
    rows = maps.reshape(B * T * h * w, C).gather(0, index.flatten()[:, None].expand(-1, C))
    return rows.view(*index.shape, C), xy - corner  # (B, K, X, Y, C)


def blend(grid: Float[Tensor, "*K X Y C"], fraction: Float[Tensor, "*K 2"]) -> Float[Tensor, "*K X-1 Y-1 C"]:
    """Shift a grid of values by a fraction of a pixel, the same for all of them (bilinear)."""
    fx, fy = fraction[..., 0, None, None, None], fraction[..., 1, None, None, None]
    along_x = grid[..., :-1, :, :].lerp(grid[..., 1:, :, :], fx)
    return along_x[..., :-1, :].lerp(along_x[..., 1:, :], fy)


def sample_patches(
    maps: Float[Tensor, "B T h w C"],
    frame: Int[Tensor, "B N"],
    xy: Float[Tensor, "B N 2"],
    radius: int,
) -> Float[Tensor, "B N P P C"]:
    """Sample the patch of (2 radius + 1)^2 positions around each point, one map cell apart, x offset first."""
    pixels, fraction = neighbourhood(maps, frame, xy, radius)
    return blend(pixels, fraction.to(pixels.dtype))


def sample_between_frames(
    maps: Float[Tensor, "B T h w C"], time: Float[Tensor, "B N"], xy: Float[Tensor, "B N 2"], radius: int
) -> Float[Tensor, "B N P P C"]:
    """Sample patches at times that may lie between two frames, whose patches are then blended.

    Times count from the first frame of the maps; those outside are moved to the nearest frame.
    """
    time = time.clamp(0, maps.shape[1] - 1)
    frame = time.long()
    here, next_one = (sample_patches(maps, f, xy, radius) for f in (frame, frame + 1))
    share = (time - frame)[..., None, None, None]
    return here + share.to(here.dtype) * (next_one - here)


def correlation_volume(
    maps: Float[Tensor, "B T h w C"],
    xy: Float[Tensor, "B N T 2"],
    support: Float[Tensor, "B N S S C"],
    radius: int,
    *,
    outside: Outside = "edge",
) -> Float[Tensor, "B N T P P S S"]:
    """Products of every feature around the present position with every feature around the query.

    Outside the map its edge is repeated, or features are zero. Correlating whole pixels and blending the products
    equals blending the features first (both are linear) and reads a quarter of the memory. On a CPU some points at a
    time, so that what is read stays in the cache, and all frames of a point in one product: each twice as fast.
    """
    N, T = xy.shape[1:3]
    numbers = T * (2 * radius + 2) ** 2 * maps.shape[-1]  # read for a point
    together = max(NUMBERS_AT_ONCE // numbers, 1) if xy.device.type == "cpu" else N
    groups = zip(xy.split(together, dim=1), support.split(together, dim=1), strict=True)
    volumes = [_correlation_of_some(maps, some, around, radius, outside) for some, around in groups]
    return torch.cat(volumes, dim=1)


def _correlation_of_some(
    maps: Float[Tensor, "B T h w C"],
    xy: Float[Tensor, "B N T 2"],
    support: Float[Tensor, "B N S S C"],
    radius: int,
    outside: Outside,
) -> Float[Tensor, "B N T P P S S"]:
    B, N, T, _ = xy.shape
    frame = torch.arange(T, device=xy.device).repeat(N).expand(B, -1)  # (B, N*T)
    pixels, fraction = neighbourhood(maps, frame, xy.reshape(B, N * T, 2), radius)
    width = pixels.shape[2]
    pixels = pixels.view(B, N, T * width * width, maps.shape[-1])
    products = pixels @ support.flatten(2, 3).transpose(-1, -2).to(pixels.dtype)  # (B, N, T*X*Y, S*S)
    products = products.unflatten(2, (T, width, width))
    if outside == "zero":
        products = products * _inside(xy, (maps.shape[3], maps.shape[2]), radius)[..., None]
    # in the type of positions: half as long as in bfloat16 on a CPU
    volume = blend(products.to(fraction.dtype), fraction.view(B, N, T, 2)).to(products.dtype)
    return volume.unflatten(-1, support.shape[2:4])


def _inside(xy: Float[Tensor, "*A 2"], size: tuple[int, int], radius: int) -> Bool[Tensor, "*A X Y"]:
    """Say which of the pixels that `neighbourhood` reads lie on a map of this (width, height)."""
    offsets = torch.arange(-radius, radius + 2, device=xy.device)
    x, y = (xy.detach().floor()[..., None] + offsets).unbind(-2)  # (*A, X), (*A, Y)
    return ((x >= 0) & (x < size[0]))[..., :, None] & ((y >= 0) & (y < size[1]))[..., None, :]


def correlation_peak(similarity: Float[Tensor, "*A PP"]) -> Float[Tensor, "*A 4"]:
    """Where cosines with P x P places around a position peak: soft mean offset, its probability, the largest cosine.

    Offsets x and y are -1 at the first and 1 at the last of the places, of which y goes fast.
    """
    similarity = similarity.float()
    probability = (PEAK_TEMPERATURE * similarity).softmax(dim=-1)
    offset = torch.linspace(-1, 1, math.isqrt(similarity.shape[-1]), device=similarity.device)
    along_x, along_y = offset.repeat_interleave(len(offset)), offset.repeat(len(offset))
    mean_x, mean_y = (probability * along_x).sum(-1), (probability * along_y).sum(-1)
    return torch.stack([mean_x, mean_y, probability.amax(-1), similarity.amax(-1)], dim=-1)


def soft_peak(probability: Float[Tensor, "A h w"], radius: float) -> Float[Tensor, "A 2"]:
    """Mean position (x, y), in raster cells, of the probability less than `radius` cells from its largest value."""
    y, x = (torch.arange(side) for side in probability.shape[1:])
    centres = to_raster(torch.cartesian_prod(y, x).flip(-1).to(probability))  # (h*w, 2)
    flat = probability.flatten(1)
    best = centres[flat.argmax(dim=1)]  # (A, 2)
    near = (centres - best[:, None]).square().sum(-1) < radius**2
    weight = (flat * near)[..., None]
    return (weight * centres).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-12)


class Mlp(nn.Module):
    """Linear, GELU, Linear. `approximate` is `none` (the error function) or `tanh`."""

    def __init__(self, inputs: int, hidden: int, outputs: int, approximate: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis."""
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


def attend(
    q: Float[Tensor, "A heads Q d"],
    k: Float[Tensor, "A heads K d"],
    v: Float[Tensor, "A heads K d"],
    bias: Float[Tensor, "*_bias"] | None = None,
) -> Float[Tensor, "A heads Q d"]:
    """Means of the values, weighted by the softmax of q.k / sqrt(d) + bias."""
    if torch.is_grad_enabled():
        # the fused kernel's backward pass is several times slower than this for short sequences on a CPU
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return (logits if bias is None else logits + bias).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class Attention(nn.Module):
    """Multi-head attention of tokens to a context; keys and values come from one projection, keys first.

    A token that may attend to nothing gets, before the output projection, zeros; or, with `lonely_mean`, the mean of
    all values, as if it might attend to everything but could tell nothing apart.
    """

    def __init__(self, width: int, heads: int, *, lonely_mean: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.lonely_mean = lonely_mean
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(width, 2 * width)
        self.to_out = nn.Linear(width, width)

    def forward(
        self,
        tokens: Float[Tensor, "A Q D"],
        context: Float[Tensor, "A K D"],
        attended: Bool[Tensor, "A _Q _K"] | None = None,
    ) -> Float[Tensor, "A Q D"]:
        """Attend. `attended` says which token may attend to what; an axis of one stands for all."""
        q = self._split(self.to_q(tokens))  # (A, heads, Q, d)
        k, v = (self._split(part) for part in self.to_kv(context).chunk(2, dim=-1))  # (A, heads, K, d)
        if attended is None:
            out = attend(q, k, v)
        else:
            mask = attended[:, None]  # (A, 1, Q, K)
            # finite, so that a token without context has no NaN: the lowest number swallows its logits, all alike
            out = attend(q, k, v, torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, torch.finfo(q.dtype).min))
            if not self.lonely_mean:
                out = torch.where(mask.any(dim=-1, keepdim=True), out, 0.0)
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class SelfAttentionBlock(nn.Module):
    """Tokens attend to each other, then an MLP; layer norms without parameters before both."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = Mlp(width, mlp_ratio * width, width, "tanh")

    def forward(self, x: Float[Tensor, "A Q D"]) -> Float[Tensor, "A Q D"]:
        """Return the tokens after one block."""
        normed = plain_norm(x)
        x = x + self.attn(normed, normed)
        return x + self.mlp(plain_norm(x))


class CrossAttentionBlock(nn.Module):
    """Tokens attend to a context, then an MLP. Only the norm of the context has parameters."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, *, lonely_mean: bool = False) -> None:
        super().__init__()
        self.norm_context = nn.LayerNorm(width, eps=1e-5)
        self.cross_attn = Attention(width, heads, lonely_mean=lonely_mean)
        self.mlp = Mlp(width, mlp_ratio * width, width, "tanh")

    def forward(
        self,
        x: Float[Tensor, "A Q D"],
        context: Float[Tensor, "A K D"],
        attended: Bool[Tensor, "A _Q _K"] | None = None,
    ) -> Float[Tensor, "A Q D"]:
        """Return the tokens after one block."""
        x = x + self.cross_attn(plain_norm(x), self.norm_context(context), attended)
        return x + self.mlp(plain_norm(x))


class UpdateFormer(nn.Module):
    """Attention along time for each track, and across tracks, in each frame, by way of a few learned virtual tracks.

    inputs       width of a token
    outputs      name and width of each output layer; their answers are concatenated
    space_depth  attention across tracks comes after every (time_depth / space_depth)-th attention along time; 0: never
    lonely_mean  see `Attention`
    """

    def __init__(
        self,
        inputs: int,
        outputs: Mapping[str, int],
        *,
        hidden: int,
        heads: int,
        mlp_ratio: int,
        time_depth: int,
        space_depth: int,
        virtual_tracks: int,
        lonely_mean: bool = False,
    ) -> None:
        super().__init__()
        self.space_every = time_depth // space_depth if space_depth else 0
        self.outputs = tuple(outputs)
        if virtual_tracks:
            # the official key, so spelled
            self.virual_tracks = nn.Parameter(torch.randn(1, virtual_tracks, 1, hidden))
        self.input_transform = nn.Linear(inputs, hidden)
        for name, width in outputs.items():
            self.add_module(name, nn.Linear(hidden, width))

        def cross_attention() -> CrossAttentionBlock:
            return CrossAttentionBlock(hidden, heads, mlp_ratio, lonely_mean=lonely_mean)

        self.time_blocks = nn.ModuleList(SelfAttentionBlock(hidden, heads, mlp_ratio) for _ in range(time_depth))
        if space_depth:
            depth = range(space_depth)
            self.space_virtual_blocks = nn.ModuleList(SelfAttentionBlock(hidden, heads, mlp_ratio) for _ in depth)
            self.space_point2virtual_blocks = nn.ModuleList(cross_attention() for _ in depth)
            self.space_virtual2point_blocks = nn.ModuleList(cross_attention() for _ in depth)

    def forward(
        self,
        tokens: Float[Tensor, "B N T W"],
        *,
        looked_at: Bool[Tensor, "B T _V _N"] | None = None,
        looking: Bool[Tensor, "B T _N _V"] | None = None,
    ) -> Float[Tensor, "B N T E"]:
        """Return what the output layers say of each token.

        `looked_at` says which virtual tracks may attend to which points in a frame, `looking` which points may attend
        to which virtual tracks. An axis of one stands for all.
        """
        B, N, T, _ = tokens.shape
        x = self.input_transform(tokens)
        if self.space_every:
            x = torch.cat([x, self.virual_tracks.expand(B, -1, T, -1).to(x.dtype)], dim=1)  # (B, N+V, T, D)
        for i, time_block in enumerate(self.time_blocks):
            x = time_block(x.flatten(0, 1)).unflatten(0, (B, -1))
            if self.space_every and i % self.space_every == 0:
                x = self._across_tracks(x, N, i // self.space_every, looked_at, looking)
        x = x[:, :N]
        return torch.cat([layer(x) for layer in self.output_layers()], dim=-1)

    def output_layers(self) -> list[nn.Linear]:
        """Return the output layers in order."""
        return [getattr(self, name) for name in self.outputs]

    def _across_tracks(
        self,
        x: Float[Tensor, "B M T D"],
        points: int,
        layer: int,
        looked_at: Bool[Tensor, "B T _V _N"] | None,
        looking: Bool[Tensor, "B T _N _V"] | None,
    ) -> Float[Tensor, "B M T D"]:
        B = len(x)
        frames = x.transpose(1, 2).flatten(0, 1)  # (B*T, N+V, D)
        point, virtual = frames[:, :points], frames[:, points:]
        looked_at, looking = (None if mask is None else mask.flatten(0, 1) for mask in (looked_at, looking))
        virtual = self.space_virtual2point_blocks[layer](virtual, point, looked_at)
        virtual = self.space_virtual_blocks[layer](virtual)
        point = self.space_point2virtual_blocks[layer](point, virtual, looking)
        return torch.cat([point, virtual], dim=1).unflatten(0, (B, -1)).transpose(1, 2)


def initialise_tracker(
    model: nn.Module, encoder: nn.Module, refiner: nn.Module, outputs: Iterable[nn.Linear], seed: int
) -> None:
    """Set all weights from one seed: Kaiming encoder, Xavier refiner, and outputs by which first changes are small."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, RESETTABLE):
                module.reset_parameters()
        virtual_tracks = getattr(refiner, "virual_tracks", None)
        if isinstance(virtual_tracks, nn.Parameter):
            nn.init.normal_(virtual_tracks)
        for module in encoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in refiner.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in outputs:
            nn.init.trunc_normal_(layer.weight, std=0.001)


def plain_norm(x: Tensor) -> Tensor:
    """Layer norm over the last axis without parameters, eps 1e-6."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def pyramid(finest: Float[Tensor, "A h w C"], levels: int) -> list[Float[Tensor, "A _h _w C"]]:
    """Halve a map again and again by averaging 2 x 2 cells; an odd row or column at the end is dropped."""
    smallest = 2 ** (levels - 1)
    if min(finest.shape[1:3]) < smallest:
        h, w = finest.shape[1:3]
        raise OptionError(
            f"frames are too small: a map of {w} x {h} cells cannot be halved {levels - 1} times; at least {smallest} "
            f"cells a side are needed. Enlarge the frames, or use a model that resizes by itself."
        )
    maps = [finest]
    for _ in range(levels - 1):
        maps.append(F.avg_pool2d(maps[-1].movedim(-1, 1), 2).movedim(1, -1))
    return maps


def unit_length(x: Float[Tensor, "*A C"]) -> Float[Tensor, "*A C"]:
    """Scale the last axis to length one; vectors shorter than 1e-6 are left short."""
    return x * x.square().sum(dim=-1, keepdim=True).clamp(min=1e-12).rsqrt()


def fourier_embedding(u: Float[Tensor, "*A d"], frequencies: int) -> Float[Tensor, "*A E"]:
    """[u, sin(2^k u_j), sin(2^k u_j + pi/2)], k slow and j fast; as in NeRF but without its factor pi."""
    scale = 2.0 ** torch.arange(frequencies, device=u.device, dtype=u.dtype)
    v = (scale[:, None] * u[..., None, :]).flatten(-2)
    return torch.cat([u, v.sin(), (v + torch.pi / 2).sin()], dim=-1)


def to_neighbours(xy: Float[Tensor, "B T N 2"]) -> Float[Tensor, "B T N 4"]:
    """Position minus that in the next frame, then minus that in the previous one; zero where there is none."""
    step = xy[:, :-1] - xy[:, 1:]  # (B, T-1, N, 2)
    return torch.cat([F.pad(step, (0, 0, 0, 0, 0, 1)), F.pad(-step, (0, 0, 0, 0, 1, 0))], dim=-1)


def time_table(rows: int, width: int) -> Float[Tensor, "1 rows width"]:
    """Sines, then cosines, of the row number at width/2 wavelengths (Vaswani et al. 2017); kept in float32."""
    omega = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angle = torch.arange(rows, dtype=torch.float64)[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=1)[None].float()


def resampled_time(table: Float[Tensor, "1 rows width"], frames: int) -> Float[Tensor, "1 frames width"]:
    """Stretch a time table over `frames` frames (linear, corners of the axis on each other)."""
    if table.shape[1] == frames:
        return table
    return F.interpolate(table.transpose(1, 2), size=frames, mode="linear", align_corners=False).transpose(1, 2)
