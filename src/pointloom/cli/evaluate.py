"""`pointloom evaluate`: how well models and baselines track the points of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    dataset: Annotated[str, typer.Argument(help="NAME:FOLDER, such as clips:benchmarks/clips; see --list.")] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="A name from `pointloom models`, a file, NAME=FILE, or a baseline. Can be repeated."
        ),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="How to evaluate; see --list. The default is pointloom-1.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for predictions, results and report.")] = Path(
        "out/evaluation"
    ),
    workers: Annotated[int, typer.Option(help="Processes that track clips side by side.", min=1)] = 1,
    limit: Annotated[int | None, typer.Option(help="Clips at most.", min=1)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the results for a program to read.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List data sets, protocols and baselines, and stop.")] = False,
) -> None:
    """Measure how well models and baselines track, and write a report.

    Writes results.json, results.csv and report.html. What was tracked is kept beside them: the same command goes on
    with a run that was interrupted, and without --model everything that is kept is scored again.

    Examples:

      pointloom evaluate clips:benchmarks/clips --model tiny --model lucas-kanade --model static -o out/clips

      pointloom evaluate tapvid-davis:data/tapvid_davis -m cotracker3-offline --protocol cotracker3-first -o out/davis

      pointloom evaluate clips:benchmarks/clips -o out/clips
    """
    from pointloom.cli.progress import stage_bars
    from pointloom.errors import OptionError
    from pointloom.evaluation.run import choices, evaluate
    from pointloom.evaluation.table import as_text

    if listing:
        typer.echo(choices())
        return
    if not dataset:
        raise OptionError("say which data set: NAME:FOLDER, such as clips:benchmarks/clips. --list shows their names.")
    with stage_bars() as stages:
        results = evaluate(
            dataset, model or [], out, protocol=protocol, workers=workers, limit=limit, device=device, stages=stages
        )
    typer.echo(results.to_json() if as_json else f"{as_text(results)}\n\n  report  {out / 'report.html'}")
