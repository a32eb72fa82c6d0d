"""Resizing: what a network sees of frames of any shape, and where positions lie on it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pointloom.errors import OptionError
from pointloom.models.encoders import Resizing, instance_norm

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


def test_frames_are_filtered_where_they_are_reduced() -> None:
    stripes = torch.zeros(1, 3, 1152, 1536)
    stripes[..., ::2] = 255  # of one pixel: grey from afar
    assert (FIT.resized(stripes)[..., 4:-4] - 127.5).abs().max() < 20
    squeezed = Resizing("fit", (64, 64), 4)  # strips of 8 pixels, along their length alone
    assert (squeezed.resized(stripes[..., :8, :])[..., 4:-4] - 127.5).abs().max() < 20
    assert (squeezed.resized(stripes[..., :8, :].mT)[..., 4:-4, :] - 127.5).abs().max() < 20


def test_enlarged_frames_are_what_a_filter_would_make_of_them() -> None:
    frames = 255 * torch.rand(1, 3, 60, 80, generator=torch.Generator().manual_seed(0))
    filtered = F.interpolate(frames, size=(288, 384), mode="bilinear", align_corners=False, antialias=True)
    assert (FIT.resized(frames) - filtered).abs().max() < 0.01


@pytest.mark.parametrize("side", [31, 32], ids=["small", "large"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_the_norm_is_that_of_each_channel_of_each_frame(side: int, layout: torch.memory_format) -> None:
    x = 3 + 2 * torch.rand(2, 24, side, side, generator=torch.Generator().manual_seed(0)).to(memory_format=layout)
    normed = instance_norm(x)
    torch.testing.assert_close(normed, F.instance_norm(x), atol=1e-3, rtol=0)
    assert normed.is_contiguous(memory_format=layout)  # the next convolution would turn it round


@pytest.mark.parametrize("side", [31, 32], ids=["small", "large"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_the_norm_has_the_slope_that_pytorch_gives_it(side: int, layout: torch.memory_format) -> None:
    random = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.rand(2, 24, side, side, generator=random, dtype=torch.float64)
    up = torch.rand(2, 24, side, side, generator=random, dtype=torch.float64).sub(0.5)
    ours, theirs = (x.to(memory_format=layout, copy=True).requires_grad_() for _ in range(2))
    instance_norm(ours).backward(up)
    F.instance_norm(theirs).backward(up)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=0)


def test_the_slope_of_the_norm_is_computed_in_float32_whatever_it_is_of() -> None:
    random = torch.Generator().manual_seed(0)
    x = (3 + 2 * torch.rand(2, 24, 40, 40, generator=random)).bfloat16()
    up = torch.rand(2, 24, 40, 40, generator=random).bfloat16()
    rounded, exact = x.clone().requires_grad_(), x.float().requires_grad_()
    instance_norm(rounded).backward(up)
    instance_norm(exact).backward(up.float())
    torch.testing.assert_close(rounded.grad, exact.grad.bfloat16(), atol=0, rtol=0.008)  # a last place of bfloat16


def test_positions_move_with_squeezed_frames() -> None:
    corners = torch.tensor([[-0.5, -0.5], [99_999.5, 0.5]])  # outer corners of the first and last pixel
    cells = FIT.to_cells(corners, (100_000, 1))
    assert torch.allclose(cells * 4, torch.tensor([[-0.5, -0.5], [2303.5, 287.5]]))
    assert torch.allclose(FIT.to_pixels(cells, (100_000, 1)), corners, atol=0.02)


def test_frames_that_the_stride_does_not_divide_are_refused_as_they_are() -> None:
    with pytest.raises(OptionError, match="30 x 40 do not divide by the model's stride 4"):
        Resizing("as_is", (288, 384), 4).resized(torch.zeros(1, 3, 40, 30))
