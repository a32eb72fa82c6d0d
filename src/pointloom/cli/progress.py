"""Progress bars on stderr, for whatever takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bar(text: str) -> Iterator[Callable[[float], None]]:
    """Show a bar; call what is yielded with the share that is done, 0..1."""
    with _bars() as bar:
        task = bar.add_task(text, total=1.0)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def stage_bars() -> Iterator[Callable[[str], Callable[[int, int | None], None]]]:
    """Show a bar for each stage of some work.

    Call what is yielded with the name of the next stage, then what that returns with how many pieces are done, of how
    many if that is known.
    """
    with _bars() as bars:

        def begin(text: str) -> Callable[[int, int | None], None]:
            for task in bars.task_ids:
                bars.remove_task(task)
            task = bars.add_task(text, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield begin


def _bars() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
