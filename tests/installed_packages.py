"""Packages that are installed for the time of a test: a module and its metadata, in a folder on the path."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pointloom.models import zoo

Install = Callable[[str, str, str], None]


@contextmanager
def installing(folder: Path) -> Iterator[Install]:
    """Give a function that installs a package: its name, the text of its module, its entry points."""
    imported: list[str] = []
    with pytest.MonkeyPatch.context() as patch:

        def install(name: str, module: str, entry_points: str) -> None:
            home = folder / name
            home.mkdir(parents=True)
            (home / f"{name}.py").write_text(module)
            about = home / f"{name}-1.0.dist-info"
            about.mkdir()
            (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (about / "entry_points.txt").write_text(entry_points)
            patch.syspath_prepend(home)
            imported.append(name)
            zoo.installed.cache_clear()

        yield install
    for name in imported:
        sys.modules.pop(name, None)
    zoo.installed.cache_clear()
