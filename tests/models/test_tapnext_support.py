"""Support points of TAPNext++: the grids of the reference, number by number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from golden_cases import FOLDER
from pointloom.models.tapnext_support import grid_points, support_points


@pytest.fixture(scope="module")
def case() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "tapnext" / "support_points.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    ("count", "size"), [(64, (300.0, 100.0)), (10, (64.0, 64.0))], ids=["wide", "square, cells unused"]
)
def test_a_grid_equals_the_reference(case: dict[str, np.ndarray], count: int, size: tuple[float, float]) -> None:
    expected = case[f"grid_{count}_{size[0]:g}x{size[1]:g}"]
    np.testing.assert_allclose(grid_points(count, size), expected, atol=1e-4)


def test_points_around_queries_equal_the_reference(case: dict[str, np.ndarray]) -> None:
    size = int(case["local_w"]), int(case["local_h"])
    seen = round(32 * size[0] / case["local_radius"][0])
    points = support_points(torch.from_numpy(case["local_queries"]), size, seen, count=int(case["local_n"]))
    np.testing.assert_allclose(points, case["local"], atol=1e-4)
