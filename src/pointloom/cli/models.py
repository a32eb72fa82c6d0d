"""`pointloom models`: what can be loaded by name."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer


def models(as_json: Annotated[bool, typer.Option("--json", help="Print for a program to read.")] = False) -> None:
    """List the models that can be loaded by name, with size and licence."""
    from pointloom.models.zoo import list_models

    rows = [entry.describe() for entry in list_models()]
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(row) for row in rows]))
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        use = "any use" if row.commercial else "not for commercial use"
        weights = "in the package" if row.shipped else "downloaded on first use"
        typer.echo(f"{row.name:<{width}}  {row.parameters / 1e6:5.1f} M  {row.licence} ({use}), {weights}")
        typer.echo(f"{'':<{width}}  {' and '.join(row.modes)}: {row.summary}. {row.citation}")
