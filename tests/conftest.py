"""Makes the modules beside this file importable from every test, and checks array shapes while tests run.

The packages and modules named here are imported with every jaxtyping annotation enforced. Those whose own checks turn a
user's wrong shape into an error of ours are left out: the type checker would be faster than they are.
"""

from jaxtyping import install_import_hook

CHECKED = (
    "pointloom.datasets.physics",
    "pointloom.datasets.synthetic",
    "pointloom.models",
    "pointloom.tracking.windows",
    "pointloom.training",
)

install_import_hook(CHECKED, "type_checker.checked")
