"""Makes the modules beside this file importable from every test, and checks array shapes while tests run.

The modules and packages named here are imported with every jaxtyping annotation enforced. Those whose own checks turn a user's wrong
shape into an error of ours are left out: the type checker would be faster than they are.
"""

from jaxtyping import install_import_hook

CHECKED = (
    "pointloom.datasets.physics",
    "pointloom.datasets.synthetic",
    "pointloom.models",
    "pointloom.tracking.windows",
    "pointloom.training",
)

install_import_hook

CHECKED = (
    "pointloom.models.base",
    "pointloom.models.layers",
    "pointloom.models.encoders",
    "pointloom.models.cotracker2",
    "pointloom.models.cotracker3",
    "pointloom.models.locotrack",
    "pointloom.models.tapir",
    "pointloom.models.tapnext",
    "pointloom.tracking.windows",
    "pointloom.training.losses",
    "pointloom.training.matching",
    "pointloom.training.objectives",
    "pointloom.training.batches",
    "pointloom.training.reentry",
)

install_import_hook(CHECKED, "beartype.beartype")
