"""The stage: MuJoCo's model of a scene, moved, drawn and probed. The only file here that talks with MuJoCo.

Each actor is a body with two sets of geoms: textured meshes, which are seen and hit by rays, and hidden solids, which
collide. Body frames are those of the things, so a point of a thing stays a constant of its body. Numbers for contacts
are a compromise found by measuring: at a step of 1 ms nothing sinks in by more than a few millimetres, and nothing
trembles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from pointloom.datasets.physics.camera import Lens
from pointloom.datasets.physics.engine import load_mujoco
from pointloom.datasets.physics.scene import Actor, Room, Scene
from pointloom.datasets.physics.shapes import Solid, Surface
from pointloom.errors import DatasetError

STEP_S = 0.001
SOFTNESS = (0.003, 1.0)  # solref: time constant in seconds, damping
IMPEDANCE = (0.95, 0.99, 0.001, 0.5, 2.0)  # solimp
FRICTION = (0.6, 0.01, 0.002)  # sliding, spinning, rolling
SEEN, COLLIDING = 1, 3  # geom groups: those from 3 on are not drawn
NEAR_M, FAR_M = 0.03, 20.0
MULTISAMPLES = 4
SHADOW_PIXELS, LARGEST_SHADOW_MAP = (
    4,
    4096,
)  # of a shadow map, for each pixel of a frame's longer side; fewer show steps
CUTOFF_DEGREES, FALL_OFF = 70.0, 1.0  # of spot lights
TO_MUJOCO = np.diag([1.0, -1.0, -1.0])  # our camera axes (x right, y down, z ahead) -> MuJoCo's (x right, y up, z back)

KINDS = {"box": "BOX", "ball": "ELLIPSOID", "cylinder": "CYLINDER", "capsule": "CAPSULE", "hull": "MESH"}


@dataclass(frozen=True)
class Poses:
    """Where the room (index 0) and the actors (from 1 on) are in each frame.

    position  of their origins, metres
    rotation  matrices whose columns are their axes
    """

    position: Float[np.ndarray, "T K 3"]
    rotation: Float[np.ndarray, "T K 3 3"]

    def to_world(self, points: Float[np.ndarray, "N 3"], owner: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N T 3"]:
        """Points given in the frames of their owners -> the world, in each frame."""
        return np.einsum("tnij,nj->nti", self.rotation[:, owner], points) + self.position[:, owner].swapaxes(0, 1)

    def to_owner(
        self, points: Float[np.ndarray, "N 3"], owner: Int[np.ndarray, " N"], t: int
    ) -> Float[np.ndarray, "N 3"]:
        """Points of the world in frame `t` -> the frames of their owners."""
        return np.einsum("nji,nj->ni", self.rotation[t, owner], points - self.position[t, owner])


class Stage:
    """A scene that can be simulated, drawn and probed with rays. Use it as a context, which frees what OpenGL holds."""

    def __init__(self, scene: Scene, lens: Lens) -> None:
        self._mujoco = mujoco = load_mujoco()
        self._model = _compile(mujoco, scene, lens)
        self._data = mujoco.MjData(self._model)
        self._renderer = mujoco.Renderer(self._model, height=lens.size[1], width=lens.size[0])
        self._owner = np.asarray(self._model.geom_bodyid)
        self._actors = len(scene.actors)
        self.shape = lens.size[::-1]  # of pictures: (height, width)
        free = [actor for actor in scene.actors if not actor.fixed]
        for joint, actor in enumerate(free):
            self._data.qvel[6 * joint : 6 * joint + 6] = np.concatenate([actor.velocity, actor.spin])
        mujoco.mj_forward(self._model, self._data)

    def __enter__(self) -> Stage:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Free the pictures' memory."""
        self._renderer.close()

    # ---- motion

    def simulate(self, before: int, steps: int) -> Float[np.ndarray, "steps state"]:
        """Let `before` milliseconds pass, then record the state of each of the following ones."""
        self._mujoco.mj_step(self._model, self._data, nstep=before)
        states = np.empty((steps, self._model.nq))
        for step in range(steps):
            states[step] = self._data.qpos
            self._mujoco.mj_step(self._model, self._data)
        return states

    def set_up(
        self,
        state: Float[np.ndarray, " state"],
        position: Float[np.ndarray, " 3"],
        rotation: Float[np.ndarray, "3 3"],
    ) -> None:
        """Put the actors where they were recorded, and the camera where it is told to be."""
        self._data.mocap_pos[0] = position
        self._mujoco.mju_mat2Quat(self._data.mocap_quat[0], (rotation @ TO_MUJOCO).ravel())
        self._place(state)

    def _place(self, state: Float[np.ndarray, " state"]) -> None:
        self._data.qpos[:] = state
        self._mujoco.mj_kinematics(self._model, self._data)
        self._mujoco.mj_camlight(self._model, self._data)

    def poses(self, states: Float[np.ndarray, "T state"]) -> Poses:
        """Poses of the room and the actors in some states."""
        position, rotation = [], []
        for state in states:
            self._place(state)
            position.append(self._data.xpos[: self._actors + 1].copy())
            rotation.append(self._data.xmat[: self._actors + 1].reshape(-1, 3, 3).copy())
        return Poses(np.array(position), np.array(rotation))

    # ---- pictures

    def photograph(self) -> UInt8[np.ndarray, "H W 3"]:
        """What the camera sees."""
        return self._draw()

    def depth(self) -> Float32[np.ndarray, "H W"]:
        """Metres along the camera's axis to what is in front at the centre of each pixel."""
        self._renderer.enable_depth_rendering()
        depth = self._draw()
        self._renderer.disable_depth_rendering()
        return depth

    def owners(self) -> Int[np.ndarray, "H W"]:
        """What is in front at the centre of each pixel: 0 for the room, from 1 on for the actors."""
        self._renderer.enable_segmentation_rendering()
        geom = self._draw()[..., 0]
        self._renderer.disable_segmentation_rendering()
        return np.where(geom >= 0, self._owner[geom], 0)

    def _draw(self) -> Any:
        self._renderer.update_scene(self._data, camera=0)
        return self._renderer.render()

    # ---- rays

    def cast(
        self, origin: Float[np.ndarray, " 3"], directions: Float[np.ndarray, "N 3"]
    ) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """How far rays go until they meet what can be seen, in lengths of their directions, and whom they meet.

        Without limit, and -1, for a ray that meets nothing.
        """
        count = len(directions)
        length = np.linalg.norm(directions, axis=1)
        geom, distance = np.full(count, -1, np.int32), np.full(count, -1.0)
        groups = np.array([1, 1, 0, 0, 0, 0], np.uint8)
        unit = np.ascontiguousarray(directions / length[:, None]).ravel()
        self._mujoco.mj_multiRay(
            self._model, self._data, origin, unit, groups, True, -1, geom, distance, None, count, FAR_M
        )
        hit = geom >= 0
        return np.where(hit, distance / length, np.inf), np.where(hit, self._owner[geom], -1)


def _compile(mujoco: Any, scene: Scene, lens: Lens) -> Any:
    spec = mujoco.MjSpec()
    spec.option.timestep = STEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 5
    spec.stat.extent = 1.0  # so that near and far are metres
    spec.stat.center = (0, 0, 0.5)
    spec.visual.map.znear, spec.visual.map.zfar = NEAR_M, FAR_M
    spec.visual.quality.offsamples = MULTISAMPLES
    spec.visual.quality.shadowsize = min(SHADOW_PIXELS * max(lens.size), LARGEST_SHADOW_MAP)
    spec.visual.global_.offwidth, spec.visual.global_.offheight = lens.size
    spec.visual.headlight.ambient = scene.ambient
    spec.visual.headlight.diffuse = spec.visual.headlight.specular = (0.1, 0.1, 0.1)
    _build_room(mujoco, spec, scene.room)
    for index, actor in enumerate(scene.actors):
        _build_actor(mujoco, spec, f"{actor.thing.name} {index}", actor)
    for light in scene.lights:
        spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_SPOT,
            pos=light.position,
            dir=light.direction,
            diffuse=light.colour,
            specular=light.colour / 3,
            ambient=(0, 0, 0),
            cutoff=CUTOFF_DEGREES,
            exponent=FALL_OFF,
            castshadow=light.shadow,
        )
    spec.worldbody.add_body(name="tripod", mocap=True).add_camera(fovy=lens.field_of_view)
    try:
        return spec.compile()
    except ValueError as error:
        raise DatasetError(
            f"MuJoCo cannot build this scene: {error}. If a model is named, remove it from its folder."
        ) from error


def _build_room(mujoco: Any, spec: Any, room: Room) -> None:
    x, y, z = room.extent
    quarter = np.sqrt(0.5)
    sides = (  # position, half sizes, turn that takes the normal from z inwards
        ((0, 0, 0), (x, y), (1, 0, 0, 0)),
        ((0, 0, z), (x, y), (0, 1, 0, 0)),
        ((-x, 0, z / 2), (y, z / 2), (0.5, 0.5, 0.5, 0.5)),
        ((x, 0, z / 2), (y, z / 2), (0.5, 0.5, -0.5, -0.5)),
        ((0, y, z / 2), (x, z / 2), (quarter, quarter, 0, 0)),
        ((0, -y, z / 2), (x, z / 2), (0, 0, quarter, quarter)),
    )
    for index, (position, half, turn) in enumerate(sides):
        repeat = 2 * np.array(half) / room.tile[index]
        material = _add_material(mujoco, spec, f"room{index}", room.textures[index], repeat)
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            pos=position,
            quat=turn,
            size=(*half, 1.0),
            material=material,
            group=SEEN,
            castshadow=False,  # nothing lies behind a wall, and its shadow on itself would be a pattern of dots
            **_contact(),
        )


def _build_actor(mujoco: Any, spec: Any, name: str, actor: Actor) -> None:
    body = spec.worldbody.add_body(name=name, pos=actor.position, quat=actor.quaternion)
    if not actor.fixed:
        body.add_freejoint()
    for index, surface in enumerate(actor.thing.surfaces):
        own = f"{name} surface {index}"
        assert surface.texture is not None
        material = _add_material(mujoco, spec, own, surface.texture, (1, 1))
        _add_mesh(mujoco, spec, own, surface)
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=own,
            material=material,
            group=SEEN,
            contype=0,
            conaffinity=0,
            mass=0,
        )
    for index, solid in enumerate(actor.thing.solids):
        _add_solid(mujoco, spec, body, f"{name} solid {index}", solid, actor.density)


def _add_solid(mujoco: Any, spec: Any, body: Any, name: str, solid: Solid, density: float) -> None:
    shape: dict[str, Any] = {"size": solid.size}
    if solid.kind == "hull":
        spec.add_mesh(name=name, uservert=solid.points.ravel(), inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX)
        shape = {"meshname": name}
    kind = getattr(mujoco.mjtGeom, f"mjGEOM_{KINDS[solid.kind]}")
    body.add_geom(type=kind, group=COLLIDING, density=density, **shape, **_contact())


def _contact() -> dict[str, Any]:
    return {"condim": 6, "friction": FRICTION, "solref": SOFTNESS, "solimp": IMPEDANCE}


def _add_mesh(mujoco: Any, spec: Any, name: str, surface: Surface) -> None:
    spec.add_mesh(
        name=name,
        uservert=surface.vertices.ravel(),
        userface=surface.faces.ravel(),
        usertexcoord=(surface.uv * (1, -1) + (0, 1)).ravel(),
        userfacetexcoord=surface.uv_faces.ravel(),
        inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
    )


def _add_material(mujoco: Any, spec: Any, name: str, texture: UInt8[np.ndarray, "h w 3"], repeat: Any) -> str:
    height, width = texture.shape[:2]
    added = spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=width, height=height, nchannel=3)
    added.data = np.ascontiguousarray(texture).tobytes()
    material = spec.add_material(name=name, texrepeat=repeat, specular=0.3, shininess=0.4)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    return name
