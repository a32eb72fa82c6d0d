"""What arrays a file must hold, and errors that say which one is missing or different."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pointloom.errors import DatasetError

Layout = Mapping[str, tuple[type[np.generic], str]]  # name of an array -> type of its numbers, its axes


def require(where: object, names: Iterable[object], wanted: Iterable[str]) -> None:
    """Raise DatasetError for names that are wanted and not there. `where` begins the message."""
    held = sorted(map(str, names))
    missing = sorted(set(wanted) - set(held))
    if missing:
        raise DatasetError(f"{where} lacks {', '.join(missing)}; it holds {', '.join(held) or 'nothing'}.")


def as_array(where: object, name: str, value: Any) -> np.ndarray:
    """Return what is under a name as a plain array, without a copy if it is one."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DatasetError(f"{where}: {name} is not an array: {error}.") from error


def check_layout(where: object, arrays: Mapping[str, np.ndarray], layout: Layout) -> None:
    """Raise DatasetError for the first array of another type or shape. `where` begins the message.

    An axis that is a letter has the same size in all arrays, an axis that is a digit has that size.
    """
    sizes: dict[str, int] = {}
    for name, (kind, axes) in layout.items():
        array = arrays[name]
        if not np.issubdtype(array.dtype, kind):
            raise DatasetError(f"{where}: {name} must be of type {kind.__name__}, got {array.dtype}.")
        expected = [int(axis) if axis.isdigit() else sizes.get(axis) for axis in axes]
        if array.ndim != len(axes) or any(e not in (None, size) for e, size in zip(expected, array.shape, strict=True)):
            known = ", ".join(f"{axis} = {size}" for axis, size in sizes.items())
            raise DatasetError(
                f"{where}: {name} must have the shape ({', '.join(axes)}), got {array.shape}."
                + (f" Other arrays say {known}." if known else "")
            )
        sizes |= {axis: size for axis, size in zip(axes, array.shape, strict=True) if not axis.isdigit()}
