"""Physics clips: scanned and drawn things fall, roll and collide in a room, with the exact track of any point.

A clip is a scene (`scene.py`), simulated and drawn by MuJoCo (`stage.py`), seen by a camera that moves (`camera.py`).
It is the idea behind Kubric's MOVi sets (Greff et al. 2022), with motion blur, wear of the picture, and every speed
from slow motion to what falls through the frame in a few frames, at one to two seconds of one core for a clip.

    models = ModelBank.from_folder("objects")       # or ModelBank(): only drawn shapes
    clip = make_clip(PhysicsConfig(), TextureBank.from_folder("photos"), models, seed=7)
    full = make_full_clip(PhysicsConfig(), TextureBank.from_folder("photos"), models, seed=7)

Both give the same frames and tracks for the same seed; the second also knows depth, segmentation, flow and camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.physics.camera import CameraPath, Lens, View, random_lens, random_path
from pointloom.datasets.physics.config import PhysicsConfig
from pointloom.datasets.physics.flow import optical_flow
from pointloom.datasets.physics.obj import ModelBank
from pointloom.datasets.physics.scene import Scene, random_scene
from pointloom.datasets.physics.stage import Stage
from pointloom.datasets.physics.tracks import Tracks, draw_tracks
from pointloom.datasets.synthetic.config import LayeredConfig
from pointloom.datasets.synthetic.recording import random_recording
from pointloom.datasets.synthetic.textures import TextureBank
from pointloom.errors import OptionError

LONGEST_INTERVAL_MS = 80  # between two frames, at difficulty 1
WAIT_MS = (0, 700)  # before the first frame
SHUTTER = (0.15, 0.5)  # share of the time of a frame in which light falls in, where there is motion blur
BLUR_STEP_PX, MOST_EXPOSURES = 2.5, 8  # the fastest points move this far between two exposures of one frame
FASTEST = 95  # percentile of the speeds that counts as the fastest
MIDDLE_GREY = (0.32, 0.5)  # mean brightness that exposure aims at, of 1
GAIN = (0.8, 2.5)  # what exposure can do, in linear light


@dataclass(frozen=True)
class FullClip(AnnotatedClip):
    """A clip of which everything is known.

    depth         metres along the camera's axis to what is in front
    segmentation  0 for the room, from 1 on for the objects
    flow          where what is seen at a pixel moves until the next frame, in pixels (x, y)
    track_depth   metres along the camera's axis to the point of each track; behind the camera it is negative
    view          the camera's position (metres) and axes (columns: right, down, ahead) in the world
    lens          its size and focal length in pixels
    """

    depth: Float32[np.ndarray, "T H W"]
    segmentation: UInt8[np.ndarray, "T H W"]
    flow: Float32[np.ndarray, "T1 H W 2"]
    track_depth: Float32[np.ndarray, "N T"]
    view: View
    lens: Lens


class _Film(NamedTuple):
    frames: UInt8[np.ndarray, "T H W 3"]
    tracks: Tracks
    stage: Stage
    states: Float[np.ndarray, "T state"]
    view: View
    lens: Lens


def make_clip(config: PhysicsConfig, textures: TextureBank, models: ModelBank, seed: int) -> AnnotatedClip:
    """Make the clip that belongs to a seed: the same configuration, textures, models and seed give the same bytes."""
    with _filmed(config, textures, models, seed) as film:
        tracks = film.tracks
        return AnnotatedClip(f"physics-{seed}", film.frames, tracks.xy, tracks.visible, tracks.valid)


def make_full_clip(config: PhysicsConfig, textures: TextureBank, models: ModelBank, seed: int) -> FullClip:
    """Make the same clip, with all that is known of the scene."""
    with _filmed(config, textures, models, seed) as film:
        depth, owner = [], []
        for t, state in enumerate(film.states):
            film.stage.set_up(state, film.view.position[t], film.view.rotation[t])
            depth.append(film.stage.depth())
            owner.append(film.stage.owners())
        poses = film.stage.poses(film.states)
        flow = [optical_flow(depth[t], owner[t], t, poses, film.view, film.lens) for t in range(len(depth) - 1)]
        tracks = film.tracks
        return FullClip(
            f"physics-{seed}",
            film.frames,
            tracks.xy,
            tracks.visible,
            tracks.valid,
            depth=np.array(depth),
            segmentation=np.array(owner, np.uint8),
            flow=np.array(flow, np.float32).reshape(-1, *depth[0].shape, 2),
            track_depth=tracks.depth,
            view=film.view,
            lens=film.lens,
        )


@contextmanager
def _filmed(config: PhysicsConfig, textures: TextureBank, models: ModelBank, seed: int) -> Iterator[_Film]:
    if seed < 0:
        raise OptionError(f"seed must not be negative, got {seed}.")
    rng = np.random.default_rng(seed)
    difficulty = rng.uniform(*config.difficulty)
    interval = max(1, round(difficulty * LONGEST_INTERVAL_MS))
    scene = random_scene(rng, config, textures, models)
    lens = random_lens(rng, config.size)
    with Stage(scene, lens) as stage:
        # From half a frame before the first one to half a frame after the last, so that each can be exposed around it.
        before = interval // 2
        millisecond = stage.simulate(int(rng.integers(*WAIT_MS)), (config.frames - 1) * interval + 2 * before + 1)
        states = millisecond[before : len(millisecond) - before : interval]
        path = _path(rng, config, stage, scene, lens, states, difficulty)
        view = path.view(np.arange(config.frames, dtype=float))
        tracks = draw_tracks(rng, stage, states, view, lens, config.tracks)
        shutter = rng.uniform(*SHUTTER) * (rng.random() < config.blurred)
        counts = _exposures(tracks, shutter)
        light = np.stack(
            [
                _exposed(stage, path, t, millisecond, before + t * interval, interval, shutter, count)
                for t, count in enumerate(counts.tolist())
            ]
        )
        frames = _developed(rng, config, light)
        yield _Film(frames, tracks, stage, states, view, lens)


def _path(
    rng: np.random.Generator,
    config: PhysicsConfig,
    stage: Stage,
    scene: Scene,
    lens: Lens,
    states: Float[np.ndarray, "T state"],
    difficulty: float,
) -> CameraPath:
    return random_path(
        rng,
        lens,
        difficulty=difficulty,
        moving=rng.random() >= config.still_cameras,
        room=scene.room.extent,
        centres=stage.poses(states).position[:, 1:].swapaxes(0, 1),
        radii=np.array([actor.thing.radius for actor in scene.actors]),
    )


def _exposures(tracks: Tracks, shutter: float) -> Int[np.ndarray, " T"]:
    """How often each frame is drawn and averaged: enough for the blur of the fastest points not to show steps."""
    T = tracks.visible.shape[1]
    counts = np.ones(T, int)
    for t in range(T - 1):
        moved = np.linalg.norm(tracks.xy[:, t + 1] - tracks.xy[:, t], axis=-1)[tracks.visible[:, t : t + 2].all(axis=1)]
        length = shutter * (np.percentile(moved, FASTEST) if len(moved) else 0.0)
        counts[t] = np.clip(np.ceil(length / BLUR_STEP_PX), 1, MOST_EXPOSURES)
    if T > 1:
        counts[-1] = counts[-2]
    return counts


def _exposed(
    stage: Stage,
    path: CameraPath,
    t: int,
    millisecond: Float[np.ndarray, "steps state"],
    step: int,
    interval: int,
    shutter: float,
    count: int,
) -> Float32[np.ndarray, "H W 3"]:
    """The light of one frame: the mean over the time that the shutter is open, whose middle the frame belongs to."""
    offsets = (np.arange(count) + 0.5) / count * shutter - shutter / 2  # in frames
    steps = step + np.rint(offsets * interval).astype(int)
    view = path.view(t + (steps - step) / interval)
    light = np.zeros((*stage.shape, 3), np.float32)
    for moment, position, rotation in zip(steps, view.position, view.rotation, strict=True):
        stage.set_up(millisecond[moment], position, rotation)
        light += np.square(stage.photograph(), dtype=np.float32)
    return light / (count * 255**2)


def _developed(
    rng: np.random.Generator, config: PhysicsConfig, light: Float32[np.ndarray, "T H W 3"]
) -> UInt8[np.ndarray, "T H W 3"]:
    """Light to frames, as a camera does: exposure for the whole clip, then noise, compression and so on."""
    wanted = rng.uniform(*MIDDLE_GREY)
    gain = np.clip((wanted / max(float(np.sqrt(light).mean()), 1e-6)) ** 2, *GAIN)
    canvases = np.rint(255 * np.sqrt(np.clip(gain * light, 0, 1))).astype(np.uint8)
    recording = random_recording(rng, LayeredConfig(size=config.size, frames=config.frames, wear=config.wear))
    return np.stack([recording.develop(canvas, t, rng) for t, canvas in enumerate(canvases)])
