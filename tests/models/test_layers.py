"""Sampling of feature maps: what lies outside, and how far outside; correlation; the pyramid."""

from __future__ import annotations

import pytest
import torch

from pointloom.errors import OptionError
from pointloom.models import layers
from pointloom.models.layers import correlation_peak, correlation_volume, pyramid, sample_patches


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 3), (3, 4), (9, 5)], ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("radius", [0, 1, 3])
def test_sampling_equals_sampling_at_coordinates_clamped_to_the_map(size: tuple[int, int], radius: int) -> None:
    h, w = size
    maps = torch.rand(1, 1, h, w, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    reach = torch.tensor(
        [-1e9, -40, -7.3, -4, -2.5, -1, -0.2, 0, 0.7, 1, 2.2, 3, 5.6, 9, 40.1, 1e9], dtype=torch.float64
    )
    xy = torch.cartesian_prod(reach, reach)[None]
    patches = sample_patches(maps, torch.zeros(1, len(xy[0]), dtype=torch.long), xy, radius)

    offset = torch.arange(-radius, radius + 1, dtype=torch.float64)
    limit = torch.tensor([w - 1, h - 1], dtype=torch.float64)
    positions = xy[0, :, None, None] + torch.stack(torch.meshgrid(offset, offset, indexing="ij"), dim=-1)
    expected = _bilinear(maps[0, 0], torch.minimum(positions.clamp(min=0), limit))
    assert torch.allclose(patches[0], expected, atol=1e-6)  # 1e9 keeps seven digits of a fraction


def test_correlation_far_outside_sees_the_edge_alone() -> None:
    maps = torch.rand(1, 1, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    support = torch.rand(1, 1, 1, 1, 3, generator=torch.Generator().manual_seed(1))
    volume = correlation_volume(maps, torch.tensor([[[[-50.0, -50.0]]]]), support, 3)
    assert torch.allclose(volume, (maps[0, 0, 0, 0] @ support.flatten()).expand_as(volume))


def test_correlation_does_not_depend_on_how_many_points_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, xy, support = torch.rand(1, 3, 9, 8, 4), 9 * torch.rand(1, 7, 3, 2), torch.rand(1, 7, 3, 3, 4)
    volumes = []
    of_a_point = 3 * 8 * 8 * 4
    for numbers in (1, 2 * of_a_point, 1000 * of_a_point):  # one point at a time, two, all
        monkeypatch.setattr(layers, "NUMBERS_AT_ONCE", numbers)
        volumes.append(correlation_volume(maps, xy, support, 3))
    assert torch.allclose(volumes[0], volumes[2], atol=1e-6)
    assert torch.allclose(volumes[1], volumes[2], atol=1e-6)
    assert volumes[0].shape == (1, 7, 3, 7, 7, 3, 3)


def test_a_peak_is_told_by_its_place_its_probability_and_its_height() -> None:
    similarity = torch.zeros(5, 5)
    similarity[4, 1] = 0.9  # the first axis is x
    x, y, probability, height = correlation_peak(similarity.flatten()).tolist()
    assert (x, y) == (pytest.approx(1, abs=1e-5), pytest.approx(-0.5, abs=1e-5))
    assert probability == pytest.approx(1, abs=1e-5)
    assert height == pytest.approx(0.9)


def test_a_map_that_cannot_be_halved_is_refused() -> None:
    assert [m.shape[1] for m in pyramid(torch.rand(1, 8, 9, 4), 4)] == [8, 4, 2, 1]
    with pytest.raises(OptionError, match="7 x 9 cells cannot be halved 3 times; at least 8"):
        pyramid(torch.rand(1, 9, 7, 4), 4)


def _bilinear(image: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    """Interpolate an image (h, w, C) at positions inside it, written out."""
    h, w, _ = image.shape
    x, y = xy.unbind(-1)
    x0, y0 = x.floor().long(), y.floor().long()
    x1, y1 = (x0 + 1).clamp(max=w - 1), (y0 + 1).clamp(max=h - 1)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    upper = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    lower = image[y1, x0] * (1 - fx) + image[y1, x1] * fx
    return upper * (1 - fy) + lower * fy
