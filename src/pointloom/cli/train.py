"""`pointloom train`: run a recipe, or go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe (.yaml); see the folder recipes.")],
    changes: Annotated[list[str] | None, typer.Argument(help="Changes such as optimizer.rate=1e-4.")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Folder of the run. The default is runs/NAME.")] = None,
) -> None:
    """Train a model. The same command goes on with a run that was interrupted, where it stopped."""
    from pointloom.training.recipe import load_recipe

    loaded = load_recipe(recipe, changes)
    from pointloom.training.loop import train as run_recipe

    typer.echo(run_recipe(loaded, run or Path("runs") / recipe.stem))
