"""Layered clips: flat sheets of photo texture that move in front of each other, with the exact track of any point.

A clip has an endless background seen by a moving camera and a stack of objects: cut-outs of random shape that drift,
turn, tilt, shrink, ripple, bounce, pause, and hide each other. Because every sheet is moved by a map in closed form,
the position of a point is known exactly in every frame, also while it is hidden or outside the frame. It is the idea
behind FlyingChairs, AutoFlow and other generated training data, here with the motion that hand-held video has (roll
through any angle, zoom, shake), with repeated textures and lookalikes, at less than a tenth of a second for a clip.

    clip = make_clip(LayeredConfig(frames=48), TextureBank.from_folder("photos"), seed=7)

Everything runs in NumPy and OpenCV. A process that makes clips beside others should call `cv2.setNumThreads(1)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.synthetic.config import LayeredConfig
from pointloom.datasets.synthetic.layers import COVERED, Layer, enlarging
from pointloom.datasets.synthetic.painting import draw, put
from pointloom.datasets.synthetic.recording import random_recording
from pointloom.datasets.synthetic.scene import Scene, random_scene
from pointloom.datasets.synthetic.textures import TextureBank, resize
from pointloom.errors import OptionError
from pointloom.geometry import inside

DRAWN_FRAMES = 6  # frames in which tracks are chosen
SPARE = 1.25  # points drawn for each one needed: those that pass behind the camera are dropped
NO_POINTS = np.zeros((0, 2))
MARK_PX = 0.5  # spread of where people put a mark
EDGE_PX, EDGE_WEIGHT = 4, 3.0  # pixels near the border of an object are chosen more often


def make_clip(config: LayeredConfig, textures: TextureBank, seed: int) -> AnnotatedClip:
    """Draw the clip that belongs to a seed: the same configuration, textures and seed give the same bytes."""
    if seed < 0:
        raise OptionError(f"seed must not be negative, got {seed}.")
    rng = np.random.default_rng(seed)
    scene = random_scene(rng, textures, config)
    recording = random_recording(rng, config)
    marked = sorted(rng.choice(config.frames, size=min(config.frames, DRAWN_FRAMES), replace=False).tolist())
    canvases, owners = paint(scene, marked)
    frames = np.stack([recording.develop(canvas, t, rng) for t, canvas in enumerate(canvases)])
    if scene.grey:
        frames = np.stack([cv2.cvtColor(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) for f in frames])
    xy, visible = draw_tracks(rng, scene.layers, owners, config.tracks, config.landmarks)
    return AnnotatedClip(f"layered-{seed}", frames, xy, visible, np.ones_like(visible))


def cover_clip(clip: AnnotatedClip, config: LayeredConfig, textures: TextureBank, seed: int) -> AnnotatedClip:
    """Let the objects of a layered clip pass in front of another clip, whose tracks are hidden where they are covered.

    So a real clip that was labelled by trackers, which cannot tell where a hidden point is, has points that are hidden
    at a known place. The size, the number of frames and the number of tracks are those of `clip`.
    """
    rng = np.random.default_rng(seed)
    config = replace(config, size=clip.size, frames=len(clip.frames), still_cameras=1.0)
    scene = random_scene(rng, textures, config)
    recording = random_recording(rng, config)
    canvases, _ = paint(scene, (), behind=clip.frames)
    frames = np.stack([recording.develop(canvas, t, rng) for t, canvas in enumerate(canvases)])
    uncovered = _visible(scene.layers, clip.xy, np.zeros(len(clip.xy), int))
    return AnnotatedClip(f"{clip.name}-{seed}", frames, clip.xy, clip.visible & uncovered, clip.valid)


def paint(
    scene: Scene, marked: Sequence[int], behind: UInt8[np.ndarray, "T H W 3"] | None = None
) -> tuple[UInt8[np.ndarray, "T h w 3"], dict[int, Int[np.ndarray, "h w"]]]:
    """The canvas of each frame and, for the marked frames, the index of the layer that is in front at each pixel.

    `behind`, frames of any size, takes the place of the background.
    """
    width, height = scene.canvas
    canvases = np.empty((len(scene.layers[0].to_frame), height, width, 3), np.uint8)
    owners = {t: np.zeros((height, width), np.int16) for t in marked}
    for t, frame in enumerate([] if behind is None else behind):
        canvases[t] = resize(frame, width, height)
    for index, layer in enumerate(scene.layers):
        if index == 0 and behind is not None:
            continue
        for patch in draw(layer, scene.canvas, scene.shutter):
            put(canvases[patch.t], patch, float(layer.gain[patch.t]))
            if index > 0 and patch.t in owners:
                owners[patch.t][patch.box][patch.opacity >= COVERED] = index
    return canvases, owners


def draw_tracks(
    rng: np.random.Generator,
    layers: Sequence[Layer],
    owners: dict[int, Int[np.ndarray, "h w"]],
    count: int,
    landmarks: float = 0.0,
) -> tuple[Float[np.ndarray, "N T 2"], Bool[np.ndarray, "N T"]]:
    """Choose points that can be seen in some of the frames, follow them through all, and say where they are visible.

    A share of them, at most, are the marks of layers; these come first.
    """
    path, visible = _draw_marks(rng, layers, round(count * landmarks))
    others, seen = _draw_anywhere(rng, layers, owners, count - len(path))
    return np.concatenate([path, others]).astype(np.float32), np.concatenate([visible, seen])


def _draw_marks(
    rng: np.random.Generator, layers: Sequence[Layer], count: int
) -> tuple[Float[np.ndarray, "K T 2"], Bool[np.ndarray, "K T"]]:
    """Choose among the marks of layers that are seen in at least one frame, some of them twice, not all quite exact."""
    marks = [_near_marks(rng, layer) if count else NO_POINTS for layer in layers]
    path, sheet = _follow(layers, marks)
    visible = _visible(layers, path, sheet)
    kept = rng.permutation(np.flatnonzero(visible.any(axis=1)))[:count]
    return path[kept], visible[kept]


def _near_marks(rng: np.random.Generator, layer: Layer) -> Float[np.ndarray, "M 2"]:
    """Two points of the sheet near each mark."""
    near = np.repeat(layer.marks, 2, axis=0)
    return near + rng.normal(0, MARK_PX / np.median(layer.magnification), near.shape) if len(near) else near


def _draw_anywhere(
    rng: np.random.Generator, layers: Sequence[Layer], owners: dict[int, Int[np.ndarray, "h w"]], count: int
) -> tuple[Float[np.ndarray, "N T 2"], Bool[np.ndarray, "N T"]]:
    """Choose pixels of the marked frames."""
    view = layers[0].view
    wanted = int(np.ceil(count * SPARE / len(owners)))
    chosen = [[NO_POINTS] for _ in layers]  # points of each sheet
    for t, owner in owners.items():
        row, column = _choose_pixels(rng, owner, wanted)
        on_canvas = np.stack([column, row], axis=-1) + rng.uniform(-0.5, 0.5, (wanted, 2))
        scale = np.linalg.inv(enlarging(view, owner.shape[::-1]))
        xy = on_canvas * scale[[0, 1], [0, 1]] + scale[:2, 2]
        index = owner[row, column]
        for i in np.unique(index):
            chosen[i].append(layers[i].lift(xy[index == i], t))
    path, sheet = _follow(layers, [np.concatenate(points) for points in chosen])
    kept = np.resize(rng.permutation(len(path)), count)
    path, sheet = path[kept], sheet[kept]
    return path, _visible(layers, path, sheet)


def _follow(
    layers: Sequence[Layer], points: Sequence[Float[np.ndarray, "_ 2"]]
) -> tuple[Float[np.ndarray, "N T 2"], Int[np.ndarray, " N"]]:
    """Where points of each sheet are in every frame, and the index of their sheet; without those behind the camera."""
    paths, sheets = [], []
    for i, (layer, own) in enumerate(zip(layers, points, strict=True)):
        path, before_the_eye = layer.locate(own)
        paths.append(path[before_the_eye])
        sheets.append(np.full(int(before_the_eye.sum()), i))
    return np.concatenate(paths), np.concatenate(sheets)


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
    row, column = np.divmod(np.concatenate([np.zeros(0, int), *drawn]), owner.shape[1])
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
