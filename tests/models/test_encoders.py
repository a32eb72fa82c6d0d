"""Resizing: what a network sees of frames of any shape, and where positions lie on it."""

from __future__ import annotations

import pytest
import torch

from pointloom.errors import OptionError
from pointloom.models.encoders import Resizing

FIT = Resizing("fit", (288, 384), 4)


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((640, 360), (512, 288)),
        ((360, 640), (288, 512)),
        ((1, 1), (288, 288)),
        ((1000, 125), (2304, 288)),
        ((100_000, 1), (2304, 288)),  # squeezed to 8 : 1
        ((1, 100_000), (288, 2304)),
    ],
)
def test_fitting_keeps_the_shape_up_to_eight_to_one(size: tuple[int, int], seen: tuple[int, int]) -> None:
    assert FIT.input_size(size) == seen


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((320, 256), (360, 288)),  # enlarged
        ((400, 320), (400, 320)),  # as it is
        ((480, 640), (360, 480)),  # reduced
        ((640, 323), (640, 320)),  # the nearest that the stride divides twice
        ((100_000, 320), (2560, 320)),
    ],
)
def test_fitting_keeps_sizes_up_to_the_largest(size: tuple[int, int], seen: tuple[int, int]) -> None:
    assert Resizing("fit", (288, 384), 4, largest=360).input_size(size) == seen


def test_positions_move_with_squeezed_frames() -> None:
    corners = torch.tensor([[-0.5, -0.5], [99_999.5, 0.5]])  # outer corners of the first and last pixel
    cells = FIT.to_cells(corners, (100_000, 1))
    assert torch.allclose(cells * 4, torch.tensor([[-0.5, -0.5], [2303.5, 287.5]]))
    assert torch.allclose(FIT.to_pixels(cells, (100_000, 1)), corners, atol=0.02)


def test_frames_that_the_stride_does_not_divide_are_refused_as_they_are() -> None:
    with pytest.raises(OptionError, match="30 x 40 do not divide by the model's stride 4"):
        Resizing("as_is", (288, 384), 4).resized(torch.zeros(1, 3, 40, 30))
