"""The command `pointloom`: one module a subcommand, and no logic: parse, call one function, print.

Progress goes to stderr, results to stdout. Exit codes: 0 done, 2 a mistake of the user (one or two sentences, no
traceback), 130 interrupted.
"""

from __future__ import annotations

import sys
import warnings

import typer

from pointloom.cli import bench, evaluate, models, synth, track, train
from pointloom.errors import PointloomError, PointloomWarning

USER_ERROR, INTERRUPTED = 2, 130

app = typer.Typer(
    name="pointloom",
    help="Track any point in any video: where it is, whether it can be seen, and how sure that is.",
    epilog="First steps: pointloom track clip.mp4 --grid 20",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("track")(track.track)
app.command("models")(models.models)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("bench")(bench.bench)
app.add_typer(synth.app, name="synth")


def main() -> None:
    """Run the command and turn our errors into messages and exit codes."""
    warnings.showwarning = _show_warning
    try:
        app(standalone_mode=True)
    except PointloomError as error:
        typer.echo(f"pointloom: {error}", err=True)
        sys.exit(USER_ERROR)
    except SystemExit as end:  # also of a KeyboardInterrupt
        if end.code == INTERRUPTED:
            typer.echo("pointloom: interrupted; files that were complete are kept.", err=True)
        raise


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, PointloomWarning):
        typer.echo(f"pointloom: {message}", err=True)
