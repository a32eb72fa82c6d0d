"""`pointloom synth`: make clips with exact tracks, to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

Folder: TypeAlias = Annotated[
    Path, typer.Argument(help="Where the clips go, one folder each. Those that are there are kept.")
]
Clips: TypeAlias = Annotated[int, typer.Option(help="How many.", min=1)]
Frames: TypeAlias = Annotated[int, typer.Option(help="Frames of each.", min=1)]
Side: TypeAlias = Annotated[int, typer.Option(help="Pixels.", min=32)]
Seed: TypeAlias = Annotated[int, typer.Option(help="Seed of the first clip; the others count on.", min=0)]
Layout: TypeAlias = Literal["pool", "kubric"]

app = typer.Typer(help="Make clips whose tracks are known exactly.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def synth() -> None:
    """Make clips whose tracks are known exactly."""


@app.command()
def layered(
    folder: Folder,
    clips: Clips = 100,
    frames: Frames = 24,
    width: Side = 256,
    height: Side = 192,
    seed: Seed = 0,
    textures: Annotated[
        Path | None, typer.Option(help="A folder of photos to cut the layers from. Without one, textures are drawn.")
    ] = None,
    figures: Annotated[float, typer.Option(help="Share of the objects that walk, wave or crawl.", min=0, max=1)] = 0.2,
    specimens: Annotated[
        float, typer.Option(help="Share of the clips with nothing but plain animals on a plain ground.", min=0, max=1)
    ] = 0.0,
    landmarks: Annotated[
        float, typer.Option(help="Share of the tracks that are joints and tips of limbs, where any are.", min=0, max=1)
    ] = 0.0,
    layout: Annotated[
        Layout, typer.Option(help="pool: to train on; kubric: images and tracks as Kubric's sequences hold them.")
    ] = "pool",
) -> None:
    """Make layered clips: photo textures on moving, turning, deforming layers. Can be interrupted and run again."""
    import cv2

    from pointloom.cli.progress import progress_bar
    from pointloom.datasets.generated import fill_folder
    from pointloom.datasets.kubric_layout import KUBRIC
    from pointloom.datasets.pool import POOL
    from pointloom.datasets.synthetic import LayeredConfig, TextureBank, make_clip

    cv2.setNumThreads(1)
    bank = TextureBank.from_folder(textures) if textures else TextureBank.procedural()
    config = LayeredConfig(
        size=(width, height), frames=frames, figures=figures, specimens=specimens, landmarks=landmarks
    )
    with progress_bar("making clips") as progress:
        made = fill_folder(
            folder,
            range(seed, seed + clips),
            lambda s: make_clip(config, bank, s),
            {"pool": POOL, "kubric": KUBRIC}[layout],
            progress,
        )
    typer.echo(f"{made} clips made, {clips - made} were there: {folder}")


@app.command()
def physics(
    folder: Folder,
    clips: Clips = 100,
    frames: Frames = 24,
    width: Side = 256,
    height: Side = 192,
    tracks: Annotated[int, typer.Option(help="Tracks of each clip.", min=1)] = 512,
    seed: Seed = 0,
    textures: Annotated[
        Path | None, typer.Option(help="A folder of photos to cover things with. Without one, textures are drawn.")
    ] = None,
    models: Annotated[
        Path | None, typer.Option(help="A folder of OBJ files to throw. Without one, simple shapes are thrown.")
    ] = None,
    layout: Annotated[
        Layout,
        typer.Option(help="pool: frames and tracks, to train on; kubric: also depth, segmentation, flow and camera."),
    ] = "pool",
    workers: Annotated[int, typer.Option(help="Processes that make clips side by side.", min=1)] = 1,
) -> None:
    """Make physics clips: things fall, roll and collide in a room. Can be interrupted and run again.

    Needs the extra `physics` and an OpenGL that draws without a screen.
    """
    from pointloom.cli.progress import progress_bar
    from pointloom.datasets.physics import PhysicsConfig
    from pointloom.datasets.physics.fill import Production, fill

    config = PhysicsConfig(size=(width, height), frames=frames, tracks=tracks)
    production = Production(config, textures, models, layout)
    with progress_bar("making clips") as progress:
        made = fill(folder, range(seed, seed + clips), production, workers=workers, progress=progress)
    typer.echo(f"{made} clips made, {clips - made} were there: {folder}")
