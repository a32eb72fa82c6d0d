"""MuJoCo, ready to draw without a screen, or an error that says what to install.

MuJoCo decides when it is imported which OpenGL it draws with. This is the one place that imports it: on Linux it asks
for EGL, which needs neither a screen nor a graphics card (Mesa's llvmpipe draws on the processor), unless MUJOCO_GL
already says something else. One thread a process is kept: several processes make more of a machine than threads do.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from types import ModuleType

from pointloom.errors import MissingExtraError, NoOpenGLError

PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libgles2"  # of Debian and Ubuntu


@cache
def load_mujoco() -> ModuleType:
    """Import MuJoCo and prepare to draw, to see that it can.

    Raises MissingExtraError without the package, NoOpenGLError where it finds nothing to draw with.
    """
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        import mujoco

        context = mujoco.GLContext(8, 8)
        context.make_current()
        mujoco.MjrContext(mujoco.MjSpec().compile(), mujoco.mjtFontScale.mjFONTSCALE_100.value).free()
        context.free()
    except ModuleNotFoundError as error:
        if error.name not in ("mujoco", "OpenGL"):
            raise
        raise MissingExtraError("mujoco", "physics") from error
    except Exception as error:  # a missing library leads to errors of almost any kind
        raise NoOpenGLError(
            f"MuJoCo finds no OpenGL to draw with (MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}): {error}. On Debian "
            f"and Ubuntu, install it with: sudo apt-get install {PACKAGES}. Without the right to do so, ask an "
            f"administrator, or set MUJOCO_GL=osmesa or glfw where one of these is at hand."
        ) from error
    return mujoco
