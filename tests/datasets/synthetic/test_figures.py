"""Jointed figures: limbs hang together, swing, and are hidden by the trunk or hide it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pointloom.datasets.synthetic import LayeredConfig, TextureBank
from pointloom.datasets.synthetic import figures as module
from pointloom.datasets.synthetic.figures import ANATOMIES, SPECIMENS, STRIDE_RATE, random_figure
from pointloom.datasets.synthetic.scene import random_scene
from pointloom.datasets.synthetic.shapes import rounded_mask

FRAMES, SIZE = 40, 100.0
ANATOMIES_OF_ALL = ANATOMIES
EVERY_ANATOMY = tuple(dict.fromkeys((*ANATOMIES, *SPECIMENS)))


def figure(anatomy, seed, monkeypatch):
    """A figure of one kind; a specimen, where the kind is one of theirs alone."""
    monkeypatch.setattr(module, "ANATOMIES", (anatomy,))
    monkeypatch.setattr(module, "SPECIMENS", (anatomy,))
    return random_figure(np.random.default_rng(seed), FRAMES, SIZE, specimen=anatomy not in ANATOMIES_OF_ALL)


def specimen(seed, monkeypatch, frames=FRAMES):
    monkeypatch.setattr(module, "SPECIMENS", (module.many_legged,))
    return random_figure(np.random.default_rng(seed), frames, SIZE, specimen=True)


def turns(part):
    """By how much a piece turns from frame to frame."""
    along = np.subtract(*ends(part)[::-1])
    return np.diff(np.unwrap(np.arctan2(along[:, 1], along[:, 0])))


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


@pytest.mark.parametrize("anatomy", EVERY_ANATOMY)
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
            turned = turns(chain[0])
            assert 0.02 < np.ptp(np.cumsum(turned)) < 2
            assert np.abs(turned).max() < STRIDE_RATE


def test_a_leg_that_steps_stands_longer_than_it_is_lifted(monkeypatch):
    monkeypatch.setattr(module, "pace", lambda rng, frames: np.ones(frames))
    legs = np.stack([turns(chain[0]) for s in range(8) for chain in limbs(specimen(s, monkeypatch, 200))[:6]])
    assert np.abs(legs).max() < STRIDE_RATE
    steady = np.abs(legs - np.median(legs, axis=1, keepdims=True)) < 1e-9  # evenly back, with the ground
    assert steady.mean() == pytest.approx(module.STANCE, abs=0.08)


def test_specimens_pause_and_others_do_not(monkeypatch):
    stopped = [
        (np.abs(turns(limbs(parts)[0][0])) < 1e-9).mean()
        for seed in range(10)
        for parts in (specimen(seed, monkeypatch, 200), figure(module.many_legged, seed, monkeypatch))
    ]
    assert np.mean(stopped[::2]) > 0.02
    assert max(stopped[1::2]) == 0


@pytest.mark.parametrize("anatomy", EVERY_ANATOMY)
def test_marks_are_the_joints_and_the_tips(anatomy, monkeypatch):
    parts = figure(anatomy, 2, monkeypatch)
    assert all(part.marks == () for part in parts if part.trunk)
    for chain in limbs(parts):
        for part in chain:
            np.testing.assert_allclose(at(part, *part.marks[0]), ends(part)[0], atol=1e-9)
        assert [len(part.marks) for part in chain] == [1] * (len(chain) - 1) + [2]
        assert chain[-1].marks[1] == (0, chain[-1].size[1] / 2)


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


def test_marks_lie_on_what_is_covered():
    limbs_of_scene = [layer for layer in scene(1).layers if len(layer.marks)]
    assert len(limbs_of_scene) > 20
    for layer in limbs_of_scene:
        x, y = np.rint(layer.marks).astype(int).T
        assert (layer.texture[y, x, 3] >= 64).all()  # a thin tip covers its last pixel in part


def test_specimens_are_figures_alone_before_a_still_ground():
    config = LayeredConfig(size=(128, 96), frames=6, specimens=1)
    grey = set()
    for seed in range(8):
        drawn = random_scene(np.random.default_rng(seed), TextureBank.procedural(count=2), config)
        ground, *others = drawn.layers
        assert (ground.to_frame == ground.to_frame[0]).all()
        trunks = [layer for layer in others if not len(layer.marks)]
        assert 1 <= len(trunks) <= 4
        assert len(others) >= 7 * len(trunks)
        grey.add(drawn.grey)
    assert grey == {False, True}


@pytest.mark.parametrize("size", [(12, 60), (60, 12), (30, 30)])
def test_a_bar_has_round_ends_and_fills_its_size(size):
    mask = rounded_mask(*size) >= 128
    width, height = size
    assert mask.any(axis=0).sum() == pytest.approx(width - 4, abs=1)  # two empty pixels at each border
    assert mask.any(axis=1).sum() == pytest.approx(height - 4, abs=1)
    if height > width:
        assert 0 < mask[3].sum() < mask[height // 2].sum() == mask[width].sum()
