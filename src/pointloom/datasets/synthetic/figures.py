"""Jointed figures: a trunk with limbs that swing, as people, animals and insects have.

A limb is a chain of stiff pieces. Each hangs on a joint at the end of the one before, turns about it in the plane, and
is foreshortened as if it swung out of the plane too. So every piece is a flat card like any other object of a layered
clip, and the track of each of its points is exact.

Lengths are in units of the figure's size, angles in radians; an angle of zero hangs down, along y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from pointloom.datasets.synthetic.motion import Homographies, Path, card, pace, shift, swing

GAIT_FRAMES = (10.0, 45.0)  # of one stride
STRIDE, STRIDE_RATE = (0.1, 0.9), 0.3  # radians to either side, and a frame at most
BEND = (0.2, 1.2)  # of the lower pieces, as shares of the stride
FORESHORTENED = 0.7  # largest angle out of the plane
UNEVEN = 0.4  # spread of the phases of limbs that go together
STOUTNESS = 0.25  # spread of the logarithm of widths
STANCE = 0.6  # of a step, during which the foot goes evenly back with the ground; then it is put forward
THINNER = (0.5, 1.0)  # limbs of those that step


@dataclass(frozen=True)
class Part:
    """One stiff piece.

    maps   from a card whose origin is its centre to the trunk, frame by frame
    size   (width, height) of that card
    cover  pieces of one number look alike
    trunk  whether it is the trunk, to which the limbs are attached
    marks  places of the card that people would mark: the joint on which it hangs and, of the last piece, its tip
    """

    maps: Homographies
    size: tuple[float, float]
    cover: int
    trunk: bool = False
    marks: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Limb:
    """A chain of pieces that hangs at a place of the trunk.

    phase   of its stride: limbs half a turn apart swing against each other
    lively  how far it swings, as a share of the figure's stride
    behind  whether the trunk hides it
    """

    at: tuple[float, float]
    angle: float
    lengths: tuple[float, ...]
    width: float
    cover: int
    phase: float = 0.0
    lively: float = 1.0
    behind: bool = False


@dataclass(frozen=True)
class Anatomy:
    """A trunk of some (width, height), and what hangs on it."""

    trunk: tuple[float, float]
    limbs: tuple[Limb, ...]


def upright() -> Anatomy:
    """Head, arms and legs, as of people."""
    sides = ((-1, True, 0.0), (1, False, np.pi))
    arms = (
        Limb((0.1 * x, -0.17), -0.2 * x, (0.19, 0.19), 0.075, cover=1, phase=phase, behind=behind)
        for x, behind, phase in sides
    )
    legs = (
        Limb((0.055 * x, 0.19), -0.05 * x, (0.25, 0.26), 0.1, cover=2, phase=phase + np.pi, behind=behind)
        for x, behind, phase in sides
    )
    return Anatomy((0.24, 0.44), (*arms, *legs, Limb((0, -0.2), np.pi, (0.2,), 0.16, cover=3, lively=0.3)))


def four_legged() -> Anatomy:
    """A neck with a head, a tail and four legs."""
    legs = (
        Limb(
            (0.2 * x + 0.03 * near, 0.09),
            0.0,
            (0.18, 0.18),
            0.075,
            cover=1,
            phase=x * near * np.pi / 2,
            behind=near < 0,
        )
        for x in (-1, 1)
        for near in (-1, 1)
    )
    head = Limb((0.26, -0.06), -2.2, (0.16, 0.17), 0.12, cover=2, lively=0.3)
    tail = Limb((-0.29, -0.06), 1.1, (0.15, 0.13), 0.035, cover=3, lively=0.8)
    return Anatomy((0.62, 0.27), (*legs, head, tail))


def many_legged() -> Anatomy:
    """Three pairs of thin legs and a head, as of insects seen from above."""
    legs = (
        Limb(
            (0.09 * side, 0.13 * row),
            -side * (np.pi / 2 - 0.5 * row),
            (0.17, 0.2),
            0.04,
            cover=1,
            phase=np.pi * (row + (side > 0)),
            lively=0.6,
            behind=True,
        )
        for side in (-1, 1)
        for row in (-1, 0, 1)
    )
    return Anatomy((0.24, 0.5), (*legs, Limb((0, -0.22), np.pi, (0.17,), 0.17, cover=2, lively=0.3)))


def winged() -> Anatomy:
    """An insect whose two wings lie on its back, or are spread."""
    insect = many_legged()
    wings = (
        Limb((0.05 * side, -0.1), -0.25 * side, (0.42,), 0.14, cover=3, phase=np.pi * (side > 0), lively=0.5)
        for side in (-1, 1)
    )
    return Anatomy(insect.trunk, (*insect.limbs, *wings))


ANATOMIES: tuple[Callable[[], Anatomy], ...] = (upright, four_legged, many_legged)
SPECIMENS: tuple[Callable[[], Anatomy], ...] = (four_legged, many_legged, winged)


def random_figure(rng: np.random.Generator, frames: int, size: float, *, specimen: bool = False) -> list[Part]:
    """Draw a figure that moves its limbs, as its pieces from back to front. `size` is its length in pixels.

    The limbs of most swing evenly. A specimen has thinner ones, steps with them, and pauses.
    """
    kinds = SPECIMENS if specimen else ANATOMIES
    anatomy = kinds[int(rng.integers(len(kinds)))]()
    stout = float(np.exp(rng.normal(0, STOUTNESS)))
    mirrored = np.diag([rng.choice((-1.0, 1.0)), 1.0, 1.0])
    period = float(np.exp(rng.uniform(*np.log(GAIT_FRAMES))))
    stride = min(rng.uniform(*STRIDE), STRIDE_RATE * period / (2 * np.pi))
    start, time = rng.uniform(0, 2 * np.pi), np.arange(frames, dtype=float)
    if specimen:
        stride *= 2 * (1 - STANCE)  # a foot that is put forward in less time may not go as far
        time = np.cumsum(pace(rng, frames))
    clock = start + time * (2 * np.pi / period)
    gait = _step if specimen else np.sin
    thin = stout * (rng.uniform(*THINNER) if specimen else 1.0)
    width, height = anatomy.trunk
    still = np.broadcast_to(mirrored, (frames, 3, 3))
    behind: list[Part] = []
    before = [Part(still, (width * stout * size, height * size), cover=0, trunk=True)]
    for limb in anatomy.limbs:
        stoutness = thin if len(limb.lengths) > 1 else stout  # heads and wings are not thinner
        pieces = _pieces(rng, limb, clock, gait, stride * limb.lively, stoutness, size)
        (behind if limb.behind else before).extend(replace(p, maps=mirrored @ p.maps) for p in pieces)
    return behind + before


def _step(phase: Path) -> Path:
    """The swing of a leg that walks, from 1 to -1 while its foot stands on the ground, then quickly forward."""
    share = (phase / (2 * np.pi)) % 1.0
    lifted = np.clip((share - STANCE) / (1 - STANCE), 0, 1)
    return np.where(share < STANCE, 1 - 2 * share / STANCE, 2 * lifted * lifted * (3 - 2 * lifted) - 1)


def _pieces(
    rng: np.random.Generator,
    limb: Limb,
    clock: Path,
    gait: Callable[[Path], Path],
    stride: float,
    stout: float,
    size: float,
) -> list[Part]:
    """Hang the pieces of a limb on each other, and swing them."""
    frames = len(clock)
    phase = limb.phase + rng.normal(0, UNEVEN)
    hung = shift(np.tile(np.array(limb.at) * size, (frames, 1)))  # where the next piece hangs
    rest = limb.angle + rng.normal(0, 0.15)
    pieces = []
    for k, length in enumerate(limb.lengths):
        reach = stride if k == 0 else stride * rng.uniform(*BEND)
        hung = hung @ _turn(rest + reach * gait(clock + phase - 0.9 * k))
        shortened = np.cos(swing(rng, frames, rng.uniform(0, FORESHORTENED), 0.1))  # (T,)
        width = limb.width * stout * size * 0.85**k
        middle = np.stack([np.zeros(frames), shortened * length * size / 2], axis=-1)
        squeezed = np.tile(np.eye(3), (frames, 1, 1))
        squeezed[:, 1, 1] = shortened
        card_size = (width, length * size + width)  # round ends overlap at the joints
        marks = [(0.0, -length * size / 2)]
        if k == len(limb.lengths) - 1:
            marks.append((0.0, card_size[1] / 2))
        pieces.append(Part(hung @ shift(middle) @ squeezed, card_size, limb.cover + 10 * k, marks=tuple(marks)))
        hung = hung @ shift(2 * middle)
        rest = float(rng.normal(0, 0.2))
    return pieces


def _turn(angle: Path) -> Float[np.ndarray, "T 3 3"]:
    flat = np.zeros((len(angle), 2))
    return card(flat, angle=angle, scale=np.ones(len(angle)), tilt=flat, focal=1.0)
