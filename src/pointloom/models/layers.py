"""Layers that several trackers share: sampling of feature maps, correlation, attention, embeddings.

Feature maps are channels last, (B, T, h, w, C), so that the features of one position are neighbours in memory.
Patches have the x offset as their first axis and the y offset as their second (CoTracker3's order).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


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
    along_x = grid[..., :-1, :, :] + fx * (grid[..., 1:, :, :] - grid[..., :-1, :, :])
    return along_x[..., :-1, :] + fy * (along_x[..., 1:, :] - along_x[..., :-1, :])


def sample_patches(
    maps: Float[Tensor, "B T h w C"],
    frame: Int[Tensor, "B N"],
    xy: Float[Tensor, "B N 2"],
    radius: int,
) -> Float[Tensor, "B N P P C"]:
    """Sample the patch of (2 radius + 1)^2 positions around each point, one map cell apart, x offset first."""
    pixels, fraction = neighbourhood(maps, frame, xy, radius)
    return blend(pixels, fraction.to(pixels.dtype))


def correlation_volume(
    maps: Float[Tensor, "B T h w C"],
    xy: Float[Tensor, "B T N 2"],
    support: Float[Tensor, "B N S S C"],
    radius: int,
) -> Float[Tensor, "B T N P P S S"]:
    """Products of every feature around the present position with every feature around the query.

    Correlating whole pixels and blending the products equals blending the features first (both are linear) and reads a
    quarter of the memory.
    """
    B, T, N, _ = xy.shape
    frame = torch.arange(T, device=xy.device).repeat_interleave(N).expand(B, -1)  # (B, T*N)
    pixels, fraction = neighbourhood(maps, frame, xy.reshape(B, T * N, 2), radius)
    width = pixels.shape[2]
    pixels = pixels.view(B, T, N, width * width, maps.shape[-1])
    products = pixels @ support.flatten(2, 3).transpose(-1, -2)[:, None].to(pixels.dtype)  # (B, T, N, X*Y, S*S)
    volume = blend(products.unflatten(3, (width, width)), fraction.view(B, T, N, 2).to(products.dtype))
    return volume.unflatten(-1, support.shape[2:4])  # (B, T, N, P, P, S, S)


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


class Attention(nn.Module):
    """Multi-head attention of tokens to a context; keys and values come from one projection, keys first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(width, 2 * width)
        self.to_out = nn.Linear(width, width)

    def forward(
        self,
        tokens: Float[Tensor, "A Q D"],
        context: Float[Tensor, "A K D"],
        attended: Bool[Tensor, "A K"] | None = None,
    ) -> Float[Tensor, "A Q D"]:
        """Attend. A token with nothing to attend to gets zeros before the output projection."""
        q = self._split(self.to_q(tokens))  # (A, heads, Q, d)
        k, v = (self._split(part) for part in self.to_kv(context).chunk(2, dim=-1))  # (A, heads, K, d)
        mask = None if attended is None else attended[:, None, None, :]
        if torch.is_grad_enabled():
            # the fused kernel's backward pass is several times slower than this for short sequences on a CPU
            logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            if mask is not None:
                logits = logits.masked_fill(~mask, -torch.inf)
            out = logits.softmax(dim=-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        if mask is not None:
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

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm_context = nn.LayerNorm(width, eps=1e-5)
        self.cross_attn = Attention(width, heads)
        self.mlp = Mlp(width, mlp_ratio * width, width, "tanh")

    def forward(
        self,
        x: Float[Tensor, "A Q D"],
        context: Float[Tensor, "A K D"],
        attended: Bool[Tensor, "A K"] | None = None,
    ) -> Float[Tensor, "A Q D"]:
        """Return the tokens after one block."""
        x = x + self.cross_attn(plain_norm(x), self.norm_context(context), attended)
        return x + self.mlp(plain_norm(x))


def plain_norm(x: Tensor) -> Tensor:
    """Layer norm over the last axis without parameters, eps 1e-6."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def unit_length(x: Float[Tensor, "*A C"]) -> Float[Tensor, "*A C"]:
    """Scale the last axis to length one; vectors shorter than 1e-6 are left short."""
    return x * x.square().sum(dim=-1, keepdim=True).clamp(min=1e-12).rsqrt()


def fourier_embedding(u: Float[Tensor, "*A d"], frequencies: int) -> Float[Tensor, "*A E"]:
    """[u, sin(2^k u_j), sin(2^k u_j + pi/2)], k slow and j fast; as in NeRF but without its factor pi."""
    scale = 2.0 ** torch.arange(frequencies, device=u.device, dtype=u.dtype)
    v = (scale[:, None] * u[..., None, :]).flatten(-2)
    return torch.cat([u, v.sin(), (v + torch.pi / 2).sin()], dim=-1)


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
