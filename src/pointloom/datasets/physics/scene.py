"""A scene to film: a room, lights, and things that fall, roll and collide in it. Everything here is a plain value.

Units are metres, seconds and radians; z points up, the floor is at 0, the middle of the room above the origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pointloom.datasets.physics.config import PhysicsConfig
from pointloom.datasets.physics.obj import ModelBank
from pointloom.datasets.physics.shapes import Texture, Thing, random_shape
from pointloom.datasets.synthetic.textures import TextureBank, TextureMix, random_texture

HALF_ROOM, ROOM_HEIGHT = (2.6, 4.2), (2.8, 4.0)
TILE = (1.2, 4.0)  # metres that one picture covers on floor and walls
ROOM_TEXTURE, OBJECT_TEXTURE = 512, 384  # pixels
OBJECT_LENGTH = (0.16, 0.7)  # the longest side
ROOM_MIX = TextureMix(pattern=0.15, weak=0.04, graphic=0.04)
OBJECT_MIX = TextureMix(pattern=0.15, weak=0.06, graphic=0.06)
PHOTO_COVERAGE = 1.5  # photo pixels, along a side, for one pixel of texture
FIXED_SHARE = 0.15  # objects that stand in the way and do not move
SPREAD = 0.9  # metres from the middle within which objects start
DROP = 2.2  # metres; the highest place at which one starts
PLACES = 60  # tried for each object
INWARD = (0.2, 1.1)  # speed towards the middle, a second for each metre of distance
JITTER, UPWARD, SPIN = 0.6, (-1.0, 1.5), 3.0  # metres a second, the same, radians a second
DENSITY = (150.0, 900.0)  # kilograms a cubic metre
SPOTS = (2, 3)  # lights, of which the first two cast shadows
AMBIENT, BRIGHTNESS = (0.25, 0.4), (0.2, 0.45)  # of the light from everywhere, and of each spot; 1 is white


@dataclass(frozen=True)
class Room:
    """Half its length and width, its height, and what covers floor, ceiling and the four walls.

    tile  metres that a picture covers, for each of the six
    """

    extent: Float[np.ndarray, " 3"]
    textures: tuple[Texture, ...]
    tile: Float[np.ndarray, " 6"]


@dataclass(frozen=True)
class Actor:
    """A thing at the start of the clip. A fixed one never moves."""

    thing: Thing
    position: Float[np.ndarray, " 3"]
    quaternion: Float[np.ndarray, " 4"]  # w, x, y, z
    velocity: Float[np.ndarray, " 3"]
    spin: Float[np.ndarray, " 3"]
    density: float
    fixed: bool


@dataclass(frozen=True)
class Light:
    """A spot light. Colours are 0..1."""

    position: Float[np.ndarray, " 3"]
    direction: Float[np.ndarray, " 3"]
    colour: Float[np.ndarray, " 3"]
    shadow: bool


@dataclass(frozen=True)
class Scene:
    """A room with actors and lights; `ambient` is the light that comes from everywhere."""

    room: Room
    actors: tuple[Actor, ...]
    lights: tuple[Light, ...]
    ambient: Float[np.ndarray, " 3"]


def random_scene(rng: np.random.Generator, config: PhysicsConfig, textures: TextureBank, models: ModelBank) -> Scene:
    """Draw a scene."""
    room = _room(rng, textures)
    actors: list[Actor] = []
    for _ in range(int(rng.integers(config.objects[0], config.objects[1] + 1))):
        taken = models.things and rng.random() < config.models
        thing = models.pick(rng) if taken else random_shape(rng)
        length = float(np.exp(rng.uniform(*np.log(OBJECT_LENGTH))))
        side = OBJECT_TEXTURE
        cover = random_texture(rng, textures.pick(rng), (side, side), coverage=PHOTO_COVERAGE, mix=OBJECT_MIX)
        actors.append(_actor(rng, thing.scaled(length / thing.length).covered(cover), actors))
    lights = tuple(_light(rng, room, index < 2) for index in range(int(rng.integers(SPOTS[0], SPOTS[1] + 1))))
    return Scene(room, tuple(actors), lights, rng.uniform(*AMBIENT) * _tint(rng))


def _room(rng: np.random.Generator, textures: TextureBank) -> Room:
    extent = np.array([*rng.uniform(*HALF_ROOM, 2), rng.uniform(*ROOM_HEIGHT)])
    side = (ROOM_TEXTURE, ROOM_TEXTURE)
    floor, ceiling, wall, other = (
        random_texture(rng, textures.pick(rng), side, coverage=PHOTO_COVERAGE, mix=ROOM_MIX) for _ in range(4)
    )
    walls = [wall if rng.random() < 0.6 else other for _ in range(4)]
    return Room(extent, (floor, ceiling, *walls), rng.uniform(*TILE, 6))


def _actor(rng: np.random.Generator, thing: Thing, others: list[Actor]) -> Actor:
    """Place a thing where it touches no other, on the floor if it is fixed."""
    fixed = bool(rng.random() < FIXED_SHARE)
    quaternion = np.array([1.0, 0, 0, 0]) if fixed else rng.normal(size=4)
    quaternion /= np.linalg.norm(quaternion)
    lowest = -float(thing.vertices[:, 2].min()) if fixed else thing.radius + 0.02
    for attempt in range(PLACES):
        height = lowest if fixed else lowest + rng.uniform(0, DROP) * (1 + attempt / PLACES) / 2
        position = np.array([*rng.uniform(-SPREAD, SPREAD, 2) * (1 + attempt / PLACES), height])
        if all(np.linalg.norm(position - other.position) > thing.radius + other.thing.radius for other in others):
            break
    velocity = np.append(-position[:2] * rng.uniform(*INWARD), rng.uniform(*UPWARD)) + rng.normal(0, JITTER, 3)
    spin = rng.normal(0, SPIN, 3)
    return Actor(thing, position, quaternion, velocity, spin, rng.uniform(*DENSITY), fixed)


def _light(rng: np.random.Generator, room: Room, shadow: bool) -> Light:
    position = room.extent * np.append(rng.uniform(-0.7, 0.7, 2), rng.uniform(0.75, 0.95))
    aim = np.append(rng.uniform(-0.6, 0.6, 2), 0.2)
    direction = (aim - position) / np.linalg.norm(aim - position)
    return Light(position, direction, rng.uniform(*BRIGHTNESS) * _tint(rng), shadow)


def _tint(rng: np.random.Generator) -> Float[np.ndarray, " 3"]:
    """White, or a little warmer or colder."""
    return np.clip(1 + rng.normal(0, 0.06) * np.array([1, 0, -1]), 0, 1.2)
