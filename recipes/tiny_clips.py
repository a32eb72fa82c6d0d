"""Make the clips that `tiny` is trained and chosen on, into cache/. Can be interrupted and run again.

    python recipes/tiny_clips.py PHOTOS [--clips CLIPS] [--models MODELS]

PHOTOS is a folder of jpg or png files; CLIPS, if given, a folder of mp4 files of which two frames each are used too;
MODELS, if given, a folder of OBJ files to throw in the physics clips. Every ninth picture and every seventh model is
held back: no training clip has it. Choose on the `held` pools; the `test` pools are for the end. About ten minutes of
one core, and forty for the physics clips. The pool `covered` is made of what tiny_labels.py makes, and by
`--only covered` alone.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from pointloom import open_video
from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.physics import PhysicsConfig
from pointloom.datasets.physics.fill import Production, fill
from pointloom.datasets.pool import ClipPool, fill_pool
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, cover_clip, make_clip
from pointloom.geometry import inside
from pointloom.training.turning import drifting, random_similarity

HELD_BACK, HELD_BACK_MODELS = 9, 7
SIZE, WIDE, AS_SEEN, LARGE = (256, 192), (352, 264), (432, 320), (480, 360)
PLAIN = LayeredConfig(SIZE, figures=0)
FIGURES = replace(PLAIN, figures=0.35)
TURNING = replace(FIGURES, turning=(0.4, 1))
LANDMARKS = replace(PLAIN, figures=0.6, specimens=0.35, landmarks=0.35)
COVERING = replace(FIGURES, objects=(1, 5))
LAYERED = (  # folder, held back, what, size, frames, first seed, clips
    ("layered_24", False, PLAIN, SIZE, 24, 0, 2000),
    ("layered_48", False, PLAIN, SIZE, 48, 20_000, 1400),
    ("layered_wide", False, PLAIN, WIDE, 24, 40_000, 600),
    ("layered_held", True, PLAIN, SIZE, 24, 100_000, 32),
    ("held_large", True, PLAIN, LARGE, 48, 300_000, 24),
    ("test_small", True, PLAIN, SIZE, 24, 700_000, 32),
    ("test_large", True, PLAIN, LARGE, 48, 710_000, 24),
    ("figures_24", False, FIGURES, SIZE, 24, 60_000, 600),
    ("figures_48", False, FIGURES, SIZE, 48, 80_000, 600),
    ("figures_wide", False, FIGURES, WIDE, 48, 90_000, 300),
    ("figures_held", True, FIGURES, LARGE, 48, 310_000, 24),
    ("turning_48", False, TURNING, SIZE, 48, 120_000, 600),
    ("layered_large", False, PLAIN, AS_SEEN, 32, 140_000, 200),
    ("figures_large", False, FIGURES, AS_SEEN, 32, 150_000, 300),
    ("turning_large", False, TURNING, AS_SEEN, 32, 160_000, 300),
    ("figures_long", False, FIGURES, AS_SEEN, 48, 190_000, 120),
    ("landmarks_large", False, LANDMARKS, AS_SEEN, 32, 170_000, 500),
    ("landmarks_48", False, LANDMARKS, SIZE, 48, 180_000, 400),
    ("landmarks_held", True, LANDMARKS, LARGE, 48, 320_000, 24),
)
PHYSICS = (
    ("physics_held", True, SIZE, 24, 900_000, 32),
    ("physics_24", False, SIZE, 24, 800_000, 500),
    ("physics_48", False, SIZE, 48, 820_000, 300),
    ("physics_test", True, SIZE, 24, 950_000, 32),
)
WARPS = 600
COVERED_SEED, COVERED_EACH = 200_000, 2  # for each part of a real clip


def pictures(photos: Path, clips: Path | None) -> list[np.ndarray]:
    """All photos, then frames at a quarter and at three quarters of each clip."""
    found = [cv2.cvtColor(cv2.imread(str(p)), cv2.COLOR_BGR2RGB) for p in sorted(photos.glob("*.[jp][pn]g"))]
    for path in sorted(clips.glob("*.mp4")) if clips else []:
        with open_video(path) as video:
            found += [video[len(video) // 4], video[3 * len(video) // 4]]
    return found


def fill_physics(photos: Path, models: Path | None, workers: int, only: str | None) -> None:
    """Fill the physics pools. What is held back lies in folders of its own."""
    for name, held, size, frames, seed, count in PHYSICS:
        if only in (None, name):
            textures = copied(sorted(photos.glob("*.[jp][pn]g")), "photos", HELD_BACK, held)
            solids = copied(sorted(models.glob("*/")), "models", HELD_BACK_MODELS, held) if models else None
            production = Production(PhysicsConfig(size=size, frames=frames), textures, solids)
            made = fill(Path("cache") / name, range(seed, seed + count), production, workers=workers)
            print(f"{name}: {made} made")


def copied(paths: list[Path], name: str, every: int, held: bool) -> Path:
    """Return a folder in cache/ with copies of those that are held back, or of the others."""
    folder = Path("cache") / f"{name}_{'held' if held else 'kept'}"
    folder.mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(paths):
        if (index % every == every // 2) == held and not (folder / path.name).exists():
            (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
    return folder


def turning_photo(photo: np.ndarray, seed: int) -> AnnotatedClip:
    """One photo under a camera that turns and zooms: what the encoder sees in its first minutes."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.5, 1.0)
    photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = photo.shape[:2]
    centred = np.array([[1, 0, (SIZE[0] - width) / 2], [0, 1, (SIZE[1] - height) / 2], [0, 0, 1]])
    points = rng.uniform(0, (width - 1, height - 1), (1500, 2))
    frames, paths = [], []
    for matrix in drifting(random_similarity(SIZE, rng), SIZE, 24):
        whole = matrix @ centred
        frame = cv2.warpAffine(photo, whole, SIZE, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        noise = rng.normal(0, rng.choice([0, 2, 5]), frame.shape)
        frames.append(np.clip(frame * rng.uniform(0.9, 1.1) + noise, 0, 255).astype(np.uint8))
        paths.append(points @ whole[:, :2].T + whole[:, 2])
    xy = np.stack(paths, axis=1).astype(np.float32)
    visible = inside(xy, SIZE)
    kept = np.argsort(-visible.sum(1))[:512]
    return AnnotatedClip("warp", np.stack(frames), xy[kept], visible[kept], np.ones_like(visible[kept]))


def fill_covered(textures: TextureBank) -> None:
    """Let objects pass in front of the real clips that were labelled."""
    labelled = ClipPool.open("cache/labelled")
    seeds = range(COVERED_SEED, COVERED_SEED + COVERED_EACH * len(labelled))
    made = fill_pool(
        Path("cache/covered"), seeds, lambda s: cover_clip(labelled[s % len(labelled)], COVERING, textures, s)
    )
    print(f"covered: {made} made")


def main() -> None:
    """Fill all pools."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--only", help="one pool")
    parser.add_argument("--workers", type=int, default=1, help="processes for the physics clips")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    found = pictures(arguments.photos, arguments.clips)
    banks = {
        held: TextureBank([p for i, p in enumerate(found) if (i % HELD_BACK == HELD_BACK // 2) == held])
        for held in (False, True)
    }
    for name, held, what, size, frames, seed, count in LAYERED:
        if arguments.only in (None, name):
            config = replace(what, size=size, frames=frames)
            made = fill_pool(
                Path("cache") / name, range(seed, seed + count), lambda s, c=config, b=banks[held]: make_clip(c, b, s)
            )
            print(f"{name}: {made} made")
    if arguments.only in (None, "warps_24"):
        photos = banks[False].photos
        made = fill_pool(Path("cache/warps_24"), range(WARPS), lambda s: turning_photo(photos[s % len(photos)], s))
        print(f"warps_24: {made} made")
    fill_physics(arguments.photos, arguments.models, arguments.workers, arguments.only)
    if arguments.only == "covered":
        fill_covered(banks[False])


if __name__ == "__main__":
    main()
