"""What other packages declare by entry points: found in the metadata of what is installed, loaded when asked for.

A package that cannot be loaded is left out with a warning that names it, so that it never stops the others.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from pointloom.errors import PointloomWarning

Declared = TypeVar("Declared")


def load_declared(group: str, kind: type[Declared]) -> Iterator[tuple[EntryPoint, Declared]]:
    """Load the entry points of a group, by name. Each leads to a value of `kind`, or to a function that returns one."""
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        try:
            value = point.load()
            value = value() if callable(value) else value
            if not isinstance(value, kind):
                raise TypeError(f"it is a {type(value).__name__}, not a {kind.__name__}")
        except Exception as error:  # the code of strangers may raise anything
            leave_out(point, f"it could not be loaded ({type(error).__name__}: {error})")
        else:
            yield point, value


def leave_out(point: EntryPoint, reason: str) -> str:
    """Warn that a package is left out, and why. Returns the sentence."""
    message = f"{describe_package(point)} is left out: {reason}. Update or uninstall it, or tell its authors."
    warnings.warn(message, PointloomWarning, stacklevel=2)
    return message


def describe_package(point: EntryPoint) -> str:
    """Name what declared an entry point."""
    package = f"the package {point.dist.name} {point.dist.version}" if point.dist else "a package"
    return f"{package} (entry point {point.name} = {point.value})"
