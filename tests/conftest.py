"""Makes the modules beside this file importable from every test, checks array shapes while tests run, and seeds them.

The packages and modules named here are imported with every jaxtyping annotation enforced. Those whose own checks turn a
user's wrong shape into an error of ours are left out: the type checker would be faster than they are.
"""

import pytest
import torch
from jaxtyping import install_import_hook

CHECKED = (
    "pointloom.datasets.physics",
    "pointloom.datasets.synthetic",
    "pointloom.models",
    "pointloom.tracking.windows",
    "pointloom.training",
)

install_import_hook(CHECKED, "type_checker.checked")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws does not depend on the tests that ran before it."""
    torch.manual_seed(0)
