"""Jointed figures: limbs hang together, swing, and are hidden by the trunk or hide it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pointloom.datasets.synthetic import LayeredConfig, TextureBank
from pointloom.datasets.synthetic import figures as module
from pointloom.datasets.synthetic.figures import ANATOMIES, STRIDE_RATE, random_figure
from pointloom.datasets.synthetic.scene import random_scene
from pointloom.datasets.synthetic.shapes import rounded_mask

FRAMES, SIZE = 40, 100.0


def figure(anatomy, seed, monkeypatch):
    monkeypatch.setattr(module, "ANATOMIES", (anatomy,))
    return random_figure(np.random.default_rng(seed), FRAMES, SIZE)


def at(part, x, y):
    """Where a place of a piece is, as seen from the trunk, in every frame."""
    image = part.maps @ np.array([x, y, 1.0])
    return image[:, :2] / image[:, 2:]


def ends(part):
    """The joint on which a piece hangs, and the one at its other end."""
    half = (part.size[1] - part.size[0]) / 2  # its round ends reach beyond the joints
    return at(part, 0, -half), at(part, 0, half)


def limbs(parts):
    """Pieces that hang on each other, from the trunk outwards."""
    found = []
    for part in parts:
        if part.cover >= 10:
            found[-1].append(part)
        elif not part.trunk:
            found.append([part])
    return found


@pytest.mark.parametrize("anatomy", ANATOMIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_pieces_hang_on_each_other_in_every_frame(anatomy, seed, monkeypatch):
    chains = limbs(figure(anatomy, seed, monkeypatch))
    assert len(chains) == len(anatomy().limbs)
    for chain in chains:
        assert np.ptp(ends(chain[0])[0], axis=0).max() < 1e-9  # on the same place of the trunk
        for upper, lower in itertools.pairwise(chain):
            np.testing.assert_allclose(ends(upper)[1], ends(lower)[0], atol=1e-9)


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_limbs_swing_but_not_faster_than_a_leg(anatomy, monkeypatch):
    for seed in range(4):
        for chain in limbs(figure(anatomy, seed, monkeypatch)):
            along = np.subtract(*ends(chain[0])[::-1])
            angle = np.unwrap(np.arctan2(along[:, 1], along[:, 0]))
            assert 0.02 < np.ptp(angle) < 2
            assert np.abs(np.diff(angle)).max() < STRIDE_RATE


def test_limbs_behind_the_trunk_come_before_it(monkeypatch):
    covers = [part.trunk for part in figure(module.upright, 0, monkeypatch)]
    assert covers.index(True) == 4  # after an arm and a leg of two pieces each
    assert len(covers) == 10


def test_a_figure_has_the_size_that_was_asked_for(monkeypatch):
    for anatomy in ANATOMIES:
        for seed in range(3):
            joints = np.concatenate([end for part in figure(anatomy, seed, monkeypatch) for end in ends(part)])
            assert 0.5 * SIZE < np.ptp(joints, axis=0).max() < 2 * SIZE


def scene(figures):
    config = LayeredConfig(size=(128, 96), frames=6, objects=(4, 4), figures=figures, still_cameras=1)
    return random_scene(np.random.default_rng(3), TextureBank.procedural(count=2), config)


def test_a_share_of_the_objects_are_figures():
    without, every = len(scene(0).layers), len(scene(1).layers)
    assert without <= 1 + 2 * 4 + 4  # background, objects with shadows, a sweep and spots of light
    assert every >= 1 + 4 * 7


def test_pieces_that_look_alike_share_their_texture():
    textures = [layer.texture for layer in scene(1).layers if not layer.endless]
    assert len({id(texture) for texture in textures}) < 0.8 * len(textures)


@pytest.mark.parametrize("size", [(12, 60), (60, 12), (30, 30)])
def test_a_bar_has_round_ends_and_fills_its_size(size):
    mask = rounded_mask(*size) >= 128
    width, height = size
    assert mask.any(axis=0).sum() == pytest.approx(width - 4, abs=1)  # two empty pixels at each border
    assert mask.any(axis=1).sum() == pytest.approx(height - 4, abs=1)
    if height > width:
        assert 0 < mask[3].sum() < mask[height // 2].sum() == mask[width].sum()
