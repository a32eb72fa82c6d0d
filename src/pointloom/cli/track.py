"""`pointloom track`: follow points through a clip, and leave a video, the numbers and a sheet in a folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

DEFAULT_GRID = 20


def track(
    video: Annotated[
        Path, typer.Argument(help="A video file, a folder of images, or a quoted glob such as 'shot/*.png'.")
    ],
    grid: Annotated[
        int | None, typer.Option(help="N x N points spread over the frame. The default is 20.", min=1)
    ] = None,
    points: Annotated[
        Path | None, typer.Option(help="A .csv, .json, .npy or .npz of points: frame, x, y in pixels of the video.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="An image of the video's size: points where it is not black.")
    ] = None,
    sift: Annotated[int | None, typer.Option(help="The N strongest SIFT key points.", min=1)] = None,
    frame: Annotated[
        int | None, typer.Option(help="Frame in which grid, mask and SIFT points start. The default is 0.", min=0)
    ] = None,
    model: Annotated[
        str, typer.Option(help="A name from `pointloom models`, or a .safetensors or .pth file.")
    ] = "tiny",
    direction: Annotated[
        Literal["forward", "backward", "both"], typer.Option(help="Where to track from the frame of each point.")
    ] = "forward",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the results. The default is out/NAME of the video.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are there.")] = False,
    memory: Annotated[str, typer.Option(help="Memory that tracking may use.")] = "4GB",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps ...")] = "auto",
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="Of layers and features. bfloat16 is faster on processors that have it."),
    ] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result for a program to read.")] = False,
) -> None:
    """Track points through a video.

    Kinds of points can be combined. Writes tracks.mp4 (the clip with trails, without sound; hollow rings where a point
    is hidden), tracks.npz (positions, visibility, confidence) and sheet.png (twelve frames).

    Examples:

      pointloom track clip.mp4

      pointloom track clip.mp4 --sift 200 --direction both --frame 30 -o result

      pointloom track clip.mp4 --points joints.csv --model cotracker3-offline
    """
    from pointloom import Queries, Tracker, load_model, open_video
    from pointloom.apps.annotate import Annotated as Files
    from pointloom.apps.annotate import write_annotated
    from pointloom.cli.progress import progress_bar
    from pointloom.errors import OptionError
    from pointloom.tracking.runner import DTYPES

    files = Files.in_folder(out or Path("out") / name_of(video), overwrite=overwrite)
    if frame is not None and points is not None and (grid, mask, sift) == (None, None, None):
        raise OptionError("--frame is for --grid, --mask and --sift; the points of a file say their frames themselves.")
    frame = frame or 0
    queries = Queries()
    if points is not None:
        queries += Queries.from_file(points)
    if mask is not None:
        queries += Queries.mask(mask, frame=frame)
    if sift is not None:
        queries += Queries.sift(sift, frame=frame)
    if grid is not None or not queries.samplers:
        queries += Queries.grid(grid or DEFAULT_GRID, frame=frame)

    with open_video(video) as footage:
        tracker = Tracker(load_model(model), memory_budget=memory, device=device, dtype=DTYPES[precision])
        started = time.monotonic()
        with progress_bar(f"tracking {footage.name}") as progress:
            tracks = tracker.track(footage, queries, direction=direction, progress=progress)
        seconds = time.monotonic() - started
        write_annotated(files, footage, tracks)
    seen = float(tracks.seen().mean()) if len(tracks) else 0.0
    summary = {
        "points": len(tracks),
        "frames": tracks.frames,
        "seconds": round(seconds, 2),
        "seen": round(seen, 4),
        "video": str(files.video),
        "tracks": str(files.tracks),
        "sheet": str(files.sheet),
    }
    if as_json:
        typer.echo(json.dumps(summary))
        return
    typer.echo(
        f"{len(tracks)} points through {tracks.frames} frames in {seconds:.1f} s "
        f"({tracks.frames / seconds:.1f} frames/s); seen {100 * seen:.0f} % of the time."
    )
    for name in ("video", "tracks", "sheet"):
        typer.echo(f"  {name:<7}{summary[name]}")


def name_of(video: Path) -> str:
    """What results are called: as the file without its ending, or as the folder of the images."""
    if set("*?[") & set(video.name):
        return video.absolute().parent.name
    return video.resolve().name if video.is_dir() else video.stem
