"""Augmentation: numbers of the reference, and pixels that move with their points.

The clips here hold dots of different colours, and a point in the middle of each. After a change the light around a
point must still be centred on it, and still be of its colour where colours are left alone.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from golden_cases import load
from pointloom.geometry import inside
from pointloom.training.appearance import (
    Box,
    ColourChange,
    Erasure,
    Replacement,
    erased,
    exposed_longer,
    recoloured,
    replaced,
    softened,
)
from pointloom.training.augment import augmented, draw_colours, draw_framing, draw_patches
from pointloom.training.framing import Framing, framed
from pointloom.training.recipe import Augmentation

SIZE, FRAMES = (160, 120), 7
SPACING_PX, RADIUS_PX = 24, 6.0
CROP = (128, 96)
NOTHING = Augmentation(
    size=CROP, erased=0, recoloured=0, blurred=0, padding_px=0, zoom=(1, 1), zoom_drift=0, crop_drift_px=0,
    flipped=(0, 0),
)  # fmt: skip
GEOMETRY: dict[str, dict[str, Any]] = {
    "nothing": {},
    "backwards": {"reversed": 1},
    "padding": {"padding_px": 24},
    "zoom in": {"zoom": (1.25, 1.25)},
    "zoom that drifts": {"zoom": (1, 1.1), "zoom_drift": 0.05},
    "crop that drifts": {"crop_drift_px": 15},
    "left and right": {"flipped": (1, 0)},
    "above and below": {"flipped": (0, 1)},
    "all of these": {"reversed": 1, "padding_px": 24, "zoom": (0.9, 1.25), "zoom_drift": 0.05, "crop_drift_px": 15}
    | {"flipped": (1, 1)},
}
PATCHES = {"patches": (1, 4), "patch_px": (20, 60)}


@functools.cache
def dots(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Frames, positions (N, T, 2), visibility and validity: soft dots of pure hues that drift together over black."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(12, side, SPACING_PX) for side in SIZE)), -1).reshape(-1, 2)
    start = grid + rng.uniform(-2, 2, grid.shape)
    xy = start[:, None] + np.arange(FRAMES)[:, None] * rng.uniform(-1.5, 1.5, 2)
    hue = np.stack([rng.uniform(0, 360, len(xy)), np.ones(len(xy)), np.ones(len(xy))], -1)
    colours = cv2.cvtColor(hue[None].astype(np.float32), cv2.COLOR_HSV2RGB)[0]
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    light = np.clip(1 - np.hypot(x - xy[..., 0, None, None], y - xy[..., 1, None, None]) / RADIUS_PX, 0, 1)
    known = np.ones(xy.shape[:2], bool)
    frames = 255 * np.einsum("nthw,nc->thwc", light, colours)
    return np.rint(frames).clip(0, 255).astype(np.uint8), xy.astype(np.float32), np.asarray(inside(xy, SIZE)), known


def centre_of_light(frame: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Mean position of the light within 9 pixels of a point."""
    x, y = np.meshgrid(*(np.arange(round(c) - 9, round(c) + 10) for c in xy))
    light = frame[y, x].max(-1).astype(float)
    return np.array([(light * x).sum(), (light * y).sum()]) / light.sum()


def well_inside(xy: np.ndarray) -> np.ndarray:
    return ((xy >= 12) & (xy <= np.array(CROP) - 13)).all(-1)


def checked_points(frames: np.ndarray, xy: np.ndarray, visible: np.ndarray, *, apart_px: float) -> int:
    """Check every point that can be seen and lies away from the border, and count them."""
    checked = visible & well_inside(xy)
    for n, t in np.argwhere(checked):
        found = centre_of_light(frames[t], xy[n, t])
        assert np.abs(found - xy[n, t]).max() < apart_px, f"point {n} of frame {t}: {xy[n, t]}, its light: {found}"
    return int(checked.sum())


# ------------------------------------------------------------------------------------------------ the reference


@pytest.mark.parametrize("name", ["spatial_a", "spatial_b", "spatial_c"])
def test_framing_equals_the_reference(name: str) -> None:
    case = load("losses", name)
    framing = Framing(
        tuple(case["pad_x0x1y0y1"].tolist()),
        float(case.scale),  # type: ignore[arg-type]  # a number here, not a dictionary
        case["scale_draws_xy"],
        case["offset_draws_xy"],
        bool(case["flip_h"]),
        bool(case["flip_v"]),
    )
    height, width = case["crop"].tolist()
    video, xy = framed(case["video"], case["traj"].swapaxes(0, 1), case["vis"].T, framing, (width, height))
    assert np.abs(xy.swapaxes(0, 1) - case["out_traj"]).max() <= 1e-9
    assert np.abs(video[case["out_video_frames"]] - case["out_video"]).max() <= 1e-3


def test_the_eraser_equals_the_reference() -> None:
    case = load("losses", "eraser")
    size = case["video"].shape[2], case["video"].shape[1]
    erasures = [
        Erasure(t, Box.around((x, y), (dx, dy), size)) for t, x, y, dx, dy in case["rects_frame_xc_yc_dx_dy"].tolist()
    ]
    frames, visible = erased(case["video"], case["traj"].swapaxes(0, 1), case["vis"].T, erasures)
    np.testing.assert_array_equal(frames, case["out_video"])
    np.testing.assert_array_equal(visible.T, case["out_vis"])


def test_the_defaults_are_those_of_cotracker3() -> None:
    recipe = Augmentation()
    assert (recipe.size, recipe.erased, recipe.patches, recipe.patch_px) == ((512, 384), 0.5, (1, 10), (2, 99))
    assert (recipe.replaced, recipe.reversed) == (0, 0)
    assert (recipe.recoloured, recipe.blurred, recipe.blur_px) == (0.25, 0.25, (0.1, 2.0))
    assert (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue) == (0.2, 0.2, 0.2, 0.25 / 3.14)
    assert (recipe.padding_px, recipe.zoom, recipe.zoom_drift, recipe.crop_drift_px) == (24, (0.75, 1.25), 0.05, 15)
    assert recipe.flipped == (0.5, 0.5)


# ------------------------------------------------------------------------------------------------ pixels and points


@pytest.mark.parametrize("name", GEOMETRY)
def test_points_stay_on_their_pixels(name: str) -> None:
    change = replace(NOTHING, **GEOMETRY[name])
    for seed in range(2):
        frames, xy, visible, _ = augmented(*dots(), change, np.random.default_rng(seed))
        assert frames.shape == (FRAMES, CROP[1], CROP[0], 3)
        # positions of a zoom are up to a quarter of a pixel off, see `framing`
        assert checked_points(frames, xy, visible, apart_px=0.15 if change.zoom == (1, 1) else 0.4) > 50


@pytest.mark.parametrize(
    "change", [{"recoloured": 1}, {"blurred": 1, "blur_px": (1, 2)}], ids=lambda change: next(iter(change))
)
def test_colours_and_blur_leave_points_in_place(change: dict[str, Any]) -> None:
    frames, xy, visible, _ = augmented(*dots(), replace(NOTHING, **change), np.random.default_rng(1))
    plain = augmented(*dots(), NOTHING, np.random.default_rng(1))
    assert (frames != plain[0]).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(xy, plain[1])
    np.testing.assert_array_equal(visible, plain[2])
    assert checked_points(frames, xy, visible, apart_px=0.15) > 50


def test_a_longer_exposure_spreads_what_moves_and_leaves_it_in_place() -> None:
    frames, xy, visible, _ = dots()
    long = np.stack([exposed_longer(*frames[t - 1 : t + 2]) for t in range(1, FRAMES - 1)])
    assert long.dtype == np.uint8
    assert checked_points(long, xy[:, 1:-1], visible[:, 1:-1], apart_px=0.1) > 50
    still = np.full((1, 1, 3), 255, np.uint8)
    assert exposed_longer(still, still, still).tolist() == [[[255] * 3]]
    assert exposed_longer(still, 0 * still, 0 * still).tolist() == [[[64] * 3]]
    assert exposed_longer(0 * still, still, 0 * still).tolist() == [[[128] * 3]]


def test_a_softened_frame_loses_detail_and_nothing_moves() -> None:
    frames, xy, visible, _ = dots()
    soft = np.stack([softened(frame, 2.0) for frame in frames])
    assert soft.shape == frames.shape
    assert checked_points(soft, xy, visible, apart_px=0.1) > 50
    stripes = np.zeros((40, 60, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.ptp(softened(stripes, 2.0)) == 0
    assert (softened(stripes, 1.0) == stripes).all()


@pytest.mark.parametrize("kind", ["erased", "replaced"])
def test_points_under_a_patch_cannot_be_seen_and_all_others_look_the_same(kind: str) -> None:
    frames, xy, visible, _ = augmented(*dots(), replace(NOTHING, **{kind: 1}, **PATCHES), np.random.default_rng(2))
    plain_frames, plain_xy, plain_visible, _ = augmented(*dots(), NOTHING, np.random.default_rng(2))
    np.testing.assert_array_equal(xy, plain_xy)
    hidden = plain_visible & ~visible
    assert hidden.sum() > 10
    assert not hidden[:, 0].any()  # the first frame is left alone
    same = (frames == plain_frames).all(axis=-1)
    for n, t in np.argwhere(visible & well_inside(xy)):
        assert same[t][tuple(np.rint(xy[n, t, ::-1]).astype(int))], f"point {n} of frame {t}"
    changed = [
        not same[t][tuple(np.rint(xy[n, t, ::-1]).astype(int))] for n, t in np.argwhere(hidden & well_inside(xy))
    ]
    assert np.mean(changed) > 0.9


def test_everything_together_leaves_visible_points_in_the_light() -> None:
    change = replace(
        NOTHING, **GEOMETRY["all of these"], **PATCHES, erased=0.7, replaced=0.5, recoloured=1, blurred=1
    )  # fmt: skip
    for seed in range(3):
        frames, xy, visible, _ = augmented(*dots(), change, np.random.default_rng(seed))
        inner = np.argwhere(visible & well_inside(xy))
        light = [frames[t][tuple(np.rint(xy[n, t, ::-1]).astype(int))].max() for n, t in inner]
        assert len(light) > 30
        assert min(light) > 50, f"seed {seed}: point {inner[int(np.argmin(light))]} lies in the dark"


# ------------------------------------------------------------------------------------------------ the parts


def test_a_replaced_patch_shows_the_other_frame() -> None:
    frames = np.stack([np.full((20, 30, 3), 10 * t, np.uint8) for t in range(3)])
    frames[2, :, :, 0] = np.arange(30)
    xy = np.array([[[5.0, 5], [5.0, 5], [5.0, 5]], [[25.0, 15]] * 3])
    patch = Replacement(1, Box(4, 3, 8, 9), source=2, corner=(20, 0))
    changed, visible = replaced(frames, xy, np.ones((2, 3), bool), [patch], frames)
    assert changed[1, 3:9, 4:8, 0].tolist() == [[20, 21, 22, 23]] * 6
    assert (changed[1] != frames[1]).any(-1).sum() == 24
    assert visible.tolist() == [[True, False, True], [True] * 3]


def test_colours_change_as_their_names_say() -> None:
    frame = np.array([[[100, 50, 50], [40, 80, 120]]], np.uint8)
    assert recoloured(frame, ColourChange()).tolist() == frame.tolist()
    assert recoloured(frame, ColourChange(brightness=3.0)).tolist() == [[[255, 150, 150], [120, 240, 255]]]
    grey = recoloured(frame, ColourChange(saturation=0.0))
    assert grey.tolist() == [[[65] * 3, [73] * 3]]  # 0.299 * 100 + 0.587 * 50 + 0.114 * 50 = 64.95
    assert recoloured(frame, ColourChange(contrast=0.0)).tolist() == [[[69] * 3] * 2]  # (64.95 + 72.6) / 2 = 68.8
    turned = recoloured(frame, ColourChange(hue=1 / 3))
    assert turned.tolist() == [[[50, 100, 50], [120, 40, 80]]]  # red to green, green to blue


def test_the_order_of_colour_changes_matters() -> None:
    frame = np.full((1, 1, 3), 200, np.uint8)
    frame[..., 2] = 20
    first = ColourChange(brightness=2.0, saturation=0.0, order=("brightness", "saturation"))
    last = ColourChange(brightness=2.0, saturation=0.0, order=("saturation", "brightness"))
    assert recoloured(frame, first).max() < recoloured(frame, last).max()


def test_draws_stay_within_the_recipe_and_reach_its_ends() -> None:
    rng, recipe = np.random.default_rng(3), Augmentation()
    framings = [draw_framing(recipe, 5, rng) for _ in range(500)]
    padding = np.array([f.padding for f in framings])
    assert (padding.min(), padding.max()) == (0, 24)
    crop = np.stack([f.crop_drift for f in framings])
    assert (crop[:, 0].min(), crop[:, 0].max()) == (-15, 14)
    assert (crop[:, 1:].min(), crop[:, 1:].max()) == (-15, 15)
    zoom = np.array([f.zoom for f in framings])
    assert 0.75 <= zoom.min() < 0.77
    assert 1.23 < zoom.max() <= 1.25
    assert {(f.flip_x, f.flip_y) for f in framings} == {(a, b) for a in (False, True) for b in (False, True)}
    colours = [draw_colours(recipe, rng) for _ in range(300)]
    assert len({c.order for c in colours}) == 24
    assert all(0.8 <= f <= 1.2 for c in colours for f in (c.brightness, c.contrast, c.saturation))
    patches = draw_patches(0.5, 400, (512, 512), recipe, rng)
    counts = np.bincount([t for t, _ in patches], minlength=400)
    assert 150 < (counts == 0).sum() < 250
    assert (counts[0], counts.max(), set(counts)) == (0, 10, set(range(11)))


def test_what_is_known_is_played_backwards_too() -> None:
    frames, xy, visible, valid = dots()
    valid = valid.copy()
    valid[0, 1] = False
    changed = augmented(frames, xy, visible, valid, replace(NOTHING, reversed=1), np.random.default_rng(0))
    assert np.argwhere(~changed.valid).tolist() == [[0, FRAMES - 2]]


def test_the_same_generator_changes_a_clip_alike() -> None:
    one, two, other = (
        augmented(*dots(), replace(Augmentation(), size=CROP), np.random.default_rng(s)) for s in (4, 4, 5)
    )
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert (one[1] != other[1]).any()


def test_a_clip_of_one_frame_or_smaller_than_the_crop_fills_it() -> None:
    frames, xy, visible, valid = (a[:1] if i == 0 else a[:, :1] for i, a in enumerate(dots()))
    changed, xy, *_ = augmented(frames, xy, visible, valid, Augmentation(), np.random.default_rng(6))
    assert changed.shape == (1, 384, 512, 3)
    assert xy.dtype == np.float32
