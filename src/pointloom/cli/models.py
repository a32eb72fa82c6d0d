"""`pointloom models`: what can be loaded by name."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer


def models(as_json: Annotated[bool, typer.Option("--json", help="Print for a program to read.")] = False) -> None:
    """List the models that can be loaded by name: size, modes, licence, and what was measured.

    Modes: full sees the whole video at once, windowed walks over it, causal takes frames as they come. The licence is
    that of the weights; the last column says whether it lets companies use them. Scores are those that the file of the
    weights tells of itself; so is speed, or it was measured with random weights.
    """
    from pointloom.models.catalogue import catalogue, format_catalogue

    rows = catalogue()
    typer.echo(json.dumps([dataclasses.asdict(row) for row in rows]) if as_json else format_catalogue(rows))
