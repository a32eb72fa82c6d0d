"""`pointloom bench`: speed and memory."""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal

import typer


def bench(
    model: Annotated[
        list[str] | None, typer.Option(help="A name from `pointloom models`, or a file of weights. Can be repeated.")
    ] = None,
    points: Annotated[
        list[int] | None, typer.Option(help="Points. Can be repeated; the default is 256 64 1024.")
    ] = None,
    frames: Annotated[list[int] | None, typer.Option(help="Frames. Can be repeated; the default is 48 24 96.")] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="WIDTHxHEIGHT. Can be repeated; the default is 640x360 320x180 1280x720.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Measured runs of each case.", min=1)] = 5,
    warm_up: Annotated[int, typer.Option(help="Runs before these.", min=0)] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads. The default is as many as usual.", min=1)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps ...")] = "auto",
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Of layers and features; positions are float32.")
    ] = "float32",
    untrained: Annotated[
        bool, typer.Option("--untrained", help="With random weights, which are as fast: nothing is downloaded.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result for a program to read.")] = False,
) -> None:
    """Measure speed and memory, each beside Lucas-Kanade on the same video.

    The first number of points, of frames and the first size are measured together; each further one with the first of
    the others. Every measurement has a process of its own.

    Examples:

      pointloom bench --model tiny

      pointloom bench --model tiny --model cotracker3-online --points 100 --frames 48 --size 640x360 --threads 2

      pointloom bench --untrained --model tapir --model tapnext --frames 24 --repeats 1
    """
    from pointloom.cli.progress import progress_bar
    from pointloom.evaluation.bench import Repeats, format_table, one_at_a_time
    from pointloom.evaluation.bench import bench as run

    sizes = [_parse_size(text) for text in size or ["640x360", "320x180", "1280x720"]]
    cases = one_at_a_time(points or [256, 64, 1024], frames or [48, 24, 96], sizes)
    with progress_bar("measuring") as progress:
        result = run(
            model or ["tiny"],
            cases,
            Repeats(warm_up, repeats, threads),
            device=device,
            precision=precision,
            untrained=untrained,
            progress=progress,
        )
    typer.echo(json.dumps(result) if as_json else format_table(result))


def _parse_size(text: str) -> tuple[int, int]:
    from pointloom.errors import OptionError

    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise OptionError(f"--size is written as 640x360, got {text!r}.")
    return int(match[1]), int(match[2])
