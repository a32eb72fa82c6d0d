"""Layered clips: flat sheets of photo texture that move in front of each other, with the exact track of any point.

A clip has an endless background seen by a moving camera and a stack of objects: cut-outs of random shape that drift,
turn, tilt, shrink, ripple, bounce, pause, and hide each other. Because every sheet is moved by a map in closed form, the
position of a point is known exactly in every frame, also while it is hidden or outside the frame. It is the idea behind
FlyingChairs, AutoFlow and other generated training data, here with the motion that hand-held video has (roll through any
angle, zoom, shake), with repeated textures and lookalikes, at less than a tenth of a second for a clip.

    clip = make_clip(LayeredConfig(frames=48), TextureBank.from_folder("photos"), seed=7)

Everything runs in NumPy and OpenCV. A process that makes clips beside others should call `cv2.setNumThreads(1)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.synthetic.camera import Look, random_look
from pointloom.datasets.synthetic.layers import Layer, enlarging
from pointloom.datasets.synthetic.painting import draw, put
from pointloom.datasets.synthetic.scene import Pace, Scene, random_scene
from pointloom.datasets.synthetic.textures import TextureBank
from pointloom.errors import OptionError
from pointloom.geometry import inside

SMALLEST_SIDE = 16
DRAWN_FRAMES = 6  # frames in which tracks are chosen
SPARE = 1.25  # points drawn for each one needed: those that pass behind the camera are dropped
EDGE_PX, EDGE_WEIGHT = 4, 3.0  # pixels near the border of an object are chosen more often


@dataclass(frozen=True)
class LayeredConfig:
    """What clips to make. Ranges are (lowest, highest) and drawn uniformly, once a clip.

    size           (width, height) of the frames in pixels
    frames         number of frames
    tracks         number of tracks: half on objects, half on the background, as far as both can be seen
    difficulty     factor for the speed of everything; at 1 the fastest points move 30 pixels a frame
    turning        factor for rotation, zoom and tilt; at 1 cameras and objects turn by up to 180 degrees and change
                   their size threefold
    objects        number of objects
    still_cameras  share of the clips whose camera does not move at all
    wear           strength of blur, noise, compression and changes of light, 0 to 1
    """

    size: tuple[int, int] = (256, 192)
    frames: int = 24
    tracks: int = 512
    difficulty: tuple[float, float] = (0.1, 1.0)
    turning: tuple[float, float] = (0.0, 1.0)
    objects: tuple[int, int] = (3, 12)
    still_cameras: float = 0.2
    wear: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if min(self.size) < SMALLEST_SIDE:
            raise OptionError(f"size must be at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels, got {self.size}.")
        for name, value in (("frames", self.frames), ("tracks", self.tracks)):
            if value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}.")
        for name, pair in (("difficulty", self.difficulty), ("turning", self.turning), ("objects", self.objects)):
            if not 0 <= pair[0] <= pair[1]:
                raise OptionError(f"{name} must be (lowest, highest) with 0 <= lowest <= highest, got {pair}.")
        if self.turning[1] > 1:
            raise OptionError(f"turning must lie in 0..1, got {self.turning}. At 1, cameras already turn upside down.")
        for name, share in (("still_cameras", self.still_cameras), ("wear", self.wear)):
            if not 0 <= share <= 1:
                raise OptionError(f"{name} must lie in 0..1, got {share}.")


def make_clip(config: LayeredConfig, textures: TextureBank, seed: int) -> AnnotatedClip:
    """Draw the clip that belongs to a seed: the same configuration, textures and seed give the same bytes."""
    if seed < 0:
        raise OptionError(f"seed must not be negative, got {seed}.")
    rng = np.random.default_rng(seed)
    pace = Pace(config.frames, config.size, rng.uniform(*config.difficulty), rng.uniform(*config.turning))
    scene = random_scene(
        rng, textures, pace, objects=config.objects, still_cameras=config.still_cameras, wear=config.wear
    )
    look = random_look(rng, config.frames, config.size, wear=config.wear)
    frames, owners = render(scene, look, rng)
    xy, visible = draw_tracks(rng, scene.layers, owners, config.tracks)
    return AnnotatedClip(f"layered-{seed}", frames, xy, visible, np.ones_like(visible))


def render(
    scene: Scene, look: Look, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "T H W 3"], dict[int, Int[np.ndarray, "h w"]]]:
    """The frames of a scene and, for some of them, which layer is in front at each pixel of the canvas."""
    view = scene.layers[0].view
    T = len(scene.layers[0].to_frame)
    canvas_size = (round(view[0] * scene.resolution), round(view[1] * scene.resolution))
    owners = {
        int(t): np.zeros(canvas_size[::-1], np.int16) for t in rng.choice(T, size=min(T, DRAWN_FRAMES), replace=False)
    }
    canvases = np.empty((T, canvas_size[1], canvas_size[0], 3), np.uint8)
    for index, layer in enumerate(scene.layers):
        for patch in draw(layer, canvas_size, scene.shutter):
            put(canvases[patch.t], patch, float(layer.gain[patch.t]))
            if index > 0 and patch.t in owners:
                owners[patch.t][patch.box][patch.covered] = index
    return np.stack([look.develop(canvas, t, view, rng) for t, canvas in enumerate(canvases)]), owners


def draw_tracks(
    rng: np.random.Generator, layers: Sequence[Layer], owners: dict[int, Int[np.ndarray, "h w"]], count: int
) -> tuple[Float[np.ndarray, "N T 2"], Bool[np.ndarray, "N T"]]:
    """Choose points that can be seen in some of the frames, follow them through all, and say where they are visible."""
    view = layers[0].view
    wanted = int(np.ceil(count * SPARE / len(owners)))
    chosen: list[list[np.ndarray]] = [[] for _ in layers]  # points of each sheet
    for t, owner in owners.items():
        row, column = _choose_pixels(rng, owner, wanted)
        on_canvas = np.stack([column, row], axis=-1) + rng.uniform(-0.5, 0.5, (wanted, 2))
        scale = np.linalg.inv(enlarging(view, owner.shape[::-1]))
        xy = on_canvas * scale[[0, 1], [0, 1]] + scale[:2, 2]
        index = owner[row, column]
        for i in np.unique(index):
            chosen[i].append(layers[i].lift(xy[index == i], t))
    paths, sheets = [], []
    for i, points in enumerate(chosen):
        if points:
            path, before_the_eye = layers[i].locate(np.concatenate(points))
            paths.append(path[before_the_eye])
            sheets.append(np.full(int(before_the_eye.sum()), i))
    path, sheet = np.concatenate(paths), np.concatenate(sheets)
    kept = np.resize(rng.permutation(len(path)), count)
    path, sheet = path[kept], sheet[kept]
    return path.astype(np.float32), _visible(layers, path, sheet)


def _choose_pixels(
    rng: np.random.Generator, owner: Int[np.ndarray, "h w"], count: int
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Rows and columns of pixels, half on objects and half on the background, none on a border between two layers.

    An object's share of the points grows with the root of its area, so that small ones get some, and pixels near a
    border between layers are chosen more often: there it is decided whether a point goes with one or the other.
    """
    uniform, near_edge = _uniform(owner, 3), ~_uniform(owner, 2 * EDGE_PX + 1)
    if not uniform.any():
        uniform = np.ones_like(uniform)
    area = np.bincount(owner.ravel())
    choices = []
    for part in (owner > 0, owner == 0):
        pixels = np.flatnonzero(uniform & part)
        weight = (1 + (EDGE_WEIGHT - 1) * near_edge.ravel()[pixels]) / np.sqrt(area[owner.ravel()[pixels]])
        choices.append((pixels, np.cumsum(weight)))
    counts = [count // 2, count - count // 2]
    for empty, other in ((0, 1), (1, 0)):
        if len(choices[empty][0]) == 0:
            counts[empty], counts[other] = 0, count
    drawn = [
        pixels[np.searchsorted(total, rng.random(n) * total[-1], side="right")]
        for (pixels, total), n in zip(choices, counts, strict=True)
        if n > 0
    ]
    row, column = np.divmod(np.concatenate(drawn), owner.shape[1])
    return row, column


def _uniform(owner: Int[np.ndarray, "h w"], side: int) -> Bool[np.ndarray, "h w"]:
    """Pixels around which, in a square of the given side, one layer owns everything."""
    square = np.ones((side, side), np.uint8)
    return np.asarray(cv2.erode(owner, square) == cv2.dilate(owner, square))


def _visible(
    layers: Sequence[Layer], path: Float[np.ndarray, "N T 2"], sheet: Int[np.ndarray, " N"]
) -> Bool[np.ndarray, "N T"]:
    """In the frame, and under no layer that is further in front."""
    visible = inside(path, layers[0].view)
    for i, layer in enumerate(layers):
        behind = sheet < i
        if i > 0 and layer.opaque and behind.any():
            visible[behind] &= ~layer.covers(path[behind])
    return np.asarray(visible)
