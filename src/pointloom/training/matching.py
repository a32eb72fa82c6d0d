"""The matching loss: features of a point in one frame must find the same point in another frame.

Two parts: a softmax over all cells of the second frame (which cell), and the soft mean of the similarities in a small
window around the truth (where in the cell). It makes features discriminative in minutes, where the loss of a tracker
alone takes hours, and stays on while everything is trained together.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pointloom.geometry import resize_area
from pointloom.models.base import FrameFeatures, PointFeatures
from pointloom.models.cotracker2 import CoTracker2
from pointloom.models.cotracker3 import CoTracker3
from pointloom.models.layers import sample_patches
from pointloom.models.tapir import Tapir

START_TEMPERATURE = 15.0  # of features of length one
WINDOW_RADIUS = 3  # cells
FOUND_RADIUS = 2  # cells around the best one in which a point is found
SOFT_MEAN_PX = 0.25  # where the error of the soft mean turns from squared to absolute


class MatchingLoss(nn.Module):
    """Matching on the stride-4 map and, if there is one, placing on the finer map. The temperatures are learned.

    Features are compared as the model compares them, by their products: those of CoTracker3 have length one, those of
    the released CoTracker v2 any. Matched by direction alone, such features find the right cell by direction, and by
    their products they do not.
    """

    def __init__(self, model: CoTracker2 | CoTracker3) -> None:
        super().__init__()
        self.fine = isinstance(model, CoTracker3) and model.config.fine_channels > 0
        self.stride = model.config.stride
        start = START_TEMPERATURE
        if isinstance(model, CoTracker2):
            C = model.config.channels
            start = START_TEMPERATURE / C if model.config.equal_length else C**-0.5
        self.log_temperatures = nn.Parameter(torch.full((1 + self.fine,), math.log(start)))

    def forward(
        self, features: FrameFeatures, first: Float[Tensor, "B K 2"], second: Float[Tensor, "B K 2"]
    ) -> dict[str, Tensor]:
        """Return the losses of points at `first` in frame 0 and at `second` in frame 1 (pixels of the input)."""
        coarse = self.coarse(features.maps)
        temperature = self.log_temperatures.exp()
        losses = {
            "match": self._which_cell(coarse, first / self.stride, second / self.stride, temperature[0]),
            "place": self._where(coarse, first / self.stride, second / self.stride, temperature[0]) * self.stride,
        }
        if self.fine:
            cell = self.stride / 2
            losses["place_fine"] = self._where(features.maps[0], first / cell, second / cell, temperature[1]) * cell
        return losses

    def coarse(self, maps: tuple[Float[Tensor, "B 2 _h _w _C"], ...]) -> Float[Tensor, "B 2 h w C"]:
        """Return the map on which cells are told apart."""
        return maps[1 if self.fine else 0]

    def find(
        self, maps: tuple[Float[Tensor, "B 2 _h _w _C"], ...], first: Float[Tensor, "B K 2"]
    ) -> Float[Tensor, "B K 2"]:
        """Find points of frame 0 in frame 1: the best cell, then the soft mean around it, last on the finest map."""
        coarse, stride = self.coarse(maps), float(self.stride)
        temperature = self.log_temperatures.exp()
        similarity = self._points(coarse, first / stride) @ coarse[:, 1].flatten(1, 2).transpose(1, 2)
        best = similarity.argmax(-1)
        w = coarse.shape[3]
        xy = torch.stack([best % w, best // w], dim=-1) * stride
        levels = [(coarse, stride, temperature[0])]
        if self.fine:
            levels.append((maps[0], stride / 2, temperature[1]))
        for level, cell, sharpness in levels:
            xy = xy + cell * self._offset(level, first / cell, xy / cell, FOUND_RADIUS, sharpness)
        return xy

    @staticmethod
    def _points(maps: Float[Tensor, "B 2 h w C"], first: Float[Tensor, "B K 2"]) -> Float[Tensor, "B K C"]:
        return sample_patches(maps, torch.zeros_like(first[..., 0], dtype=torch.long), first, 0)[:, :, 0, 0]

    def _which_cell(self, maps: Tensor, first: Tensor, second: Tensor, temperature: Tensor) -> Tensor:
        h, w = maps.shape[2:4]
        similarity = self._points(maps, first) @ maps[:, 1].flatten(1, 2).transpose(1, 2)  # (B, K, h*w)
        log_probability = (temperature * similarity.float()).log_softmax(-1)
        return cell_cross_entropy(log_probability, second, (h, w))

    def _where(self, maps: Tensor, first: Tensor, second: Tensor, temperature: Tensor) -> Tensor:
        """Error, in cells, of the soft mean in a window that lies within two cells of the truth."""
        centre = second + 4 * torch.rand_like(second) - 2
        error = centre + self._offset(maps, first, centre, WINDOW_RADIUS, temperature) - second
        return F.smooth_l1_loss(error, torch.zeros_like(error), beta=SOFT_MEAN_PX)

    def _offset(
        self, maps: Tensor, first: Tensor, centre: Tensor, radius: int, temperature: Tensor
    ) -> Float[Tensor, "B K 2"]:
        """Soft mean of the similarities in a window around `centre`, from there, in cells."""
        frame = torch.ones_like(centre[..., 0], dtype=torch.long)
        patch = sample_patches(maps, frame, centre, radius).flatten(2, 3)  # (B, K, P*P, C)
        similarity = (patch @ self._points(maps, first)[..., None])[..., 0]
        probability = (temperature * similarity.float()).softmax(-1)
        offset = torch.arange(-radius, radius + 1, device=maps.device, dtype=probability.dtype)
        return probability @ torch.cartesian_prod(offset, offset)  # x offset slow


def cell_cross_entropy(
    log_probability: Float[Tensor, "*A cells"], truth: Float[Tensor, "*A 2"], size: tuple[int, int]
) -> Float[Tensor, ""]:
    """Cross-entropy over all cells of maps of (h, w); the target is spread over the four cells around the truth."""
    h, w = size
    corner = truth.floor()
    fraction = truth - corner
    neighbour = torch.cartesian_prod(torch.arange(2), torch.arange(2)).to(truth)  # (4, 2)
    weight = (1 - (neighbour - fraction[..., None, :]).abs()).prod(-1)  # (*A, 4)
    cell = corner[..., None, :] + neighbour
    index = cell[..., 1].clamp(0, h - 1) * w + cell[..., 0].clamp(0, w - 1)
    return -(weight * log_probability.gather(-1, index.long())).sum(-1).mean()


def first_estimate_loss(
    model: Tapir,
    features: FrameFeatures,
    points: PointFeatures,
    xy: Float[Tensor, "B T N 2"],
    visible: Bool[Tensor, "B T N"],
) -> Float[Tensor, ""]:
    """Which cell, for TAPIR: cross-entropy of the scores that its first estimate reads, where points are visible.

    The released losses see of these scores only what lies around the best one, wherever that is; so a young model hears
    little of a match that is altogether wrong.
    """
    coarse, query = features.maps[1], points.support[1][:, :, 0, 0]
    similarity = torch.einsum("bthwc,bnc->btnhw", coarse, query)[visible]  # (K, h, w)
    h, w = similarity.shape[1:]
    _, score = model.scores(similarity)
    log_probability = score.flatten(1).float().log_softmax(-1)
    return cell_cross_entropy(log_probability, resize_area(xy[visible], features.size, (w, h)), (h, w))
