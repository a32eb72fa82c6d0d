"""While testing, what a function of the checked packages is given must have the shapes that it names."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from pointloom.datasets.physics.camera import Lens
from pointloom.datasets.synthetic.motion import shift
from pointloom.models.layers import to_neighbours
from pointloom.training.losses import from_query_on


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: shift(np.zeros((4, 3))),
        lambda: to_neighbours(torch.zeros(1, 5, 2, 3)),
        lambda: from_query_on(torch.zeros(1, 2, 2), 4),
        lambda: Lens((64, 48), 50.0).project(np.zeros((4, 2))),
    ],
    ids=["synthetic", "models", "training", "physics"],
)
def test_a_wrong_shape_is_refused(wrong) -> None:
    with pytest.raises(TypeCheckError):
        wrong()
