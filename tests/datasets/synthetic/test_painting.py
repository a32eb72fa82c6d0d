import numpy as np
import pytest
from small_scenes import VIEW, background, board, centre_of_mass, noise, spots

from pointloom.datasets.synthetic.layers import Layer, Ripple
from pointloom.datasets.synthetic.motion import card
from pointloom.datasets.synthetic.painting import Patch, draw, line_kernel, put

RIPPLE = Ripple(amplitude=2.0, waves=np.array([[0.05, 0.02], [-0.01, 0.05]]), phases=np.array([0.3, 2.0]), pace=0.4)
SPOT = np.array([50.3, 38.8])


def drawn_beside_track(layer, point, canvas):
    """How far from its track each frame shows a spot, in pixels of the frame."""
    xy, _ = layer.locate(point[None])
    for patch in draw(layer, canvas, shutter=0.0):
        scale = layer.view[0] / canvas[0]
        centre = (xy[0, patch.t] + 0.5) / scale - 0.5
        y, x = np.ogrid[: canvas[1], : canvas[0]]
        near = np.hypot(x - centre[0], y - centre[1]) < 14 / scale
        yield (centre_of_mass(patch.colours * near[..., None]) + 0.5) * scale - 0.5 - xy[0, patch.t]


@pytest.mark.parametrize("ripple", [None, RIPPLE], ids=["stiff", "rippling"])
@pytest.mark.parametrize("canvas", [(160, 120), (112, 84), (224, 168)], ids=["same size", "smaller", "larger"])
def test_a_spot_is_drawn_where_its_track_says(ripple, canvas):
    maps = card(
        np.array([[30.0, 22.0], [44.5, 31.25], [90.0, 12.0]]),
        angle=np.radians([0, 20, 80]),
        scale=np.array([1.0, 0.8, 1.3]),
        tilt=np.array([[0, 0], [0.1, -0.2], [0.15, 0.1]]),
        focal=200.0,
    )
    layer = Layer(spots([SPOT], 96, 80, sigma=1.3), maps, np.ones(3), (160, 120), ripple=ripple, endless=True)
    # Where the map is curved, a spot seems to lie a little beside its centre, the more so the larger it is.
    assert np.abs(list(drawn_beside_track(layer, SPOT, canvas))).max() < 0.08


@pytest.mark.parametrize("scale", [0.6, 0.36, 0.25])
def test_a_spot_is_drawn_in_its_place_at_every_level_of_the_pyramid(scale):
    maps = card(np.array([[31.7, 22.4]]), angle=np.ones(1), scale=np.array([scale]), tilt=np.zeros((1, 2)), focal=200.0)
    layer = Layer(
        spots([SPOT], 97, 81, sigma=6), maps, np.ones(1), (160, 120), endless=True
    )  # odd sides: no exact halves
    assert np.abs(list(drawn_beside_track(layer, SPOT, (160, 120)))).max() < 0.03


def test_fine_texture_does_not_alias_when_it_is_shrunk_to_a_quarter():
    maps = card(np.zeros((1, 2)), angle=np.zeros(1), scale=np.full(1, 0.25), tilt=np.zeros((1, 2)), focal=200.0)
    layer = Layer(noise(256, 192), maps, np.ones(1), (60, 40), endless=True)
    (patch,) = draw(layer, (60, 40), shutter=0.0)
    # The mean of 16 pixels has a quarter of their deviation; picking single ones would keep all of it.
    assert patch.colours.std() < 0.35 * noise(256, 192).std()


def test_motion_blur_stretches_along_the_path_and_keeps_the_centre():
    layer = background([(0, 0), (6, 0), (12, 0)], texture=spots([(25, 20)], 64, 48))
    sharp = [patch.colours for patch in draw(layer, VIEW, shutter=0.0)][1]
    blurred = [patch.colours for patch in draw(layer, VIEW, shutter=1.0)][1]
    assert centre_of_mass(blurred) == pytest.approx(centre_of_mass(sharp), abs=0.05)
    # A box of 6 pixels adds a variance of 6^2 / 12 along x and nothing along y.
    assert _variance(blurred) - _variance(sharp) == pytest.approx([3.0, 0.0], abs=0.4)


def _variance(image):
    grey = image[..., 0].astype(float)
    mean = centre_of_mass(image)
    x, y = np.arange(grey.shape[1]) - mean[0], np.arange(grey.shape[0])[:, None] - mean[1]
    return np.array([(grey * x * x).sum(), (grey * y * y).sum()]) / grey.sum()


@pytest.mark.parametrize("extent", [(5.0, 0.0), (0.0, -3.0), (4.0, 7.0), (-2.0, 2.0)])
def test_a_blur_kernel_is_symmetric_and_sums_to_one(extent):
    kernel = line_kernel(np.array(extent))
    assert kernel.sum() == pytest.approx(1)
    assert kernel == pytest.approx(kernel[::-1, ::-1])


def test_the_background_goes_on_as_its_mirror_image_beyond_the_photo():
    texture = noise(40, 30)
    view_of_right_neighbour = next(
        iter(draw(background([(-40, 0)], texture=texture, view=(40, 30)), (40, 30), shutter=0.0))
    )
    assert (view_of_right_neighbour.colours == texture[:, ::-1]).all()


def test_a_board_is_drawn_only_in_its_box():
    (patch,) = draw(board([(10, 20)], width=12, height=8), VIEW, shutter=0.0)
    rows, columns = patch.box
    assert (rows.start, columns.start) == (19, 9)  # one pixel of margin, where the border fades out
    assert (patch.opacity >= 128).sum() == 12 * 8


def test_a_board_out_of_sight_is_not_drawn():
    seen = [patch.t for patch in draw(board([(-30, 0), (5, 5), (80, 0)]), VIEW, shutter=0.0)]
    assert seen == [1]


def test_a_board_that_moves_into_the_frame_is_blurred_by_what_was_outside():
    (patch,) = (p for p in draw(board([(-20, 0), (-9, 0), (2, 0)]), VIEW, shutter=1.0) if p.t == 1)
    # The board covers x = -9 .. 2; eleven pixels of blur spread its end as far as x = 8.
    assert patch.colours[5, 7, 3] > 10


def test_a_patch_hides_what_is_behind_it_as_far_as_it_is_opaque():
    canvas = np.full((2, 3, 3), 100, np.uint8)
    colours = np.array([[[40, 40, 40, 255], [20, 20, 20, 128], [0, 0, 0, 0]]], np.uint8)
    put(canvas, Patch(0, colours, colours[..., 3], (slice(0, 1), slice(0, 3))), gain=1.0)
    assert canvas[0, :, 0].tolist() == [40, 20 + 50, 100]  # 100 * (255 - 128) / 255 = 49.8
    assert (canvas[1] == 100).all()


def test_gain_makes_a_patch_brighter_but_not_what_is_behind_it():
    canvas = np.full((1, 2, 3), 100, np.uint8)
    colours = np.array([[[40, 40, 40, 255], [0, 0, 0, 0]]], np.uint8)
    put(canvas, Patch(0, colours, colours[..., 3], (slice(0, 1), slice(0, 2))), gain=1.5)
    assert canvas[0, :, 0].tolist() == [60, 100]
