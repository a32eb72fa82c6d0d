"""What the stage draws, what rays meet and where bodies are said to be must be one and the same world."""

import cv2
import numpy as np
import pytest
from hand_made_scenes import LENS, actor, black_room, brightest_spot, looking, marked, place_on, scene, views

from pointloom.datasets.physics import shapes
from pointloom.datasets.physics.obj import ModelBank
from pointloom.datasets.physics.shapes import Surface, Thing
from pointloom.datasets.physics.stage import Stage
from pointloom.datasets.physics.tracks import follow
from pointloom.errors import DatasetError

MARK_AT = 0.3, 0.6  # neither mirrored nor turned does it fall on itself

THINGS = {
    "box": shapes.box(np.array([0.2, 0.15, 0.1])),
    "ball": shapes.ball(np.array([0.2, 0.15, 0.2])),
    "cylinder": shapes.cylinder(0.15, 0.2),
    "capsule": shapes.capsule(0.12, 0.15),
    "cone": shapes.cone(0.2, 0.1, 0.2),
    "ring": shapes.ring(0.2, 0.08),
    "vase": shapes.vase(np.array([0.1, 0.2, 0.15, 0.18]), 0.2),
}


@pytest.mark.parametrize("name", THINGS)
def test_a_mark_on_a_texture_is_drawn_where_its_point_is_said_to_be(name):
    thing = THINGS[name].covered(marked(*MARK_AT))
    points, normals = place_on(thing, *MARK_AT)
    with Stage(scene(actor(thing, quaternion=(0.8, 0.2, -0.4, 0.4))), LENS) as stage:
        (state,) = stage.simulate(0, 1)
        poses = stage.poses(state[None])
        for point, normal in zip(points, normals, strict=True):
            facing = poses.rotation[0, 1] @ normal
            place = poses.to_world(point[None], np.array([1]))[0, 0]
            if abs(facing[2]) > 0.9:
                continue  # a level camera cannot look straight up or down
            aside = np.array([0.03, 0.04, 0.05])  # so that the mark is not in the middle
            view = views(looking(place + facing + 2 * aside, place + aside))
            tracks = follow(stage, state[None], view, LENS, poses, point[None], np.array([1]))
            assert tracks.visible.all()
            stage.set_up(state, view.position[0], view.rotation[0])
            found = brightest_spot(stage.photograph(), tracks.xy[0, 0])
            np.testing.assert_allclose(found, tracks.xy[0, 0], atol=0.4)  # a slanted mark is brighter on one side


def test_a_mark_stays_under_its_track_while_its_thing_falls_and_turns():
    thing = THINGS["box"].covered(marked(*MARK_AT))
    points, normals = place_on(thing, *MARK_AT)
    tumbling = actor(thing, position=(0, 0, 1.2), velocity=(0.4, 0.2, 0.5), spin=(2, 3, 1), fixed=False)
    with Stage(scene(tumbling), LENS) as stage:
        states = stage.simulate(0, 601)[::100]
        poses = stage.poses(states)
        view = views(*[looking((1.0, 0.1 * t, 1.3), poses.position[t, 1]) for t in range(len(states))])
        tracks = follow(stage, states, view, LENS, poses, points, np.ones(len(points), int))
        facing = np.einsum("tij,nj->nti", poses.rotation[:, 1], normals)
        towards = np.einsum("nti,ti->nt", facing, view.position - poses.position[:, 1])
        towards /= np.linalg.norm(view.position - poses.position[:, 1], axis=1)
        checked = 0
        for t, state in enumerate(states):
            stage.set_up(state, view.position[t], view.rotation[t])
            frame = stage.photograph()
            for n in np.flatnonzero(tracks.visible[:, t] & (towards[:, t] > 0.6)):
                found = brightest_spot(frame, tracks.xy[n, t])
                np.testing.assert_allclose(found, tracks.xy[n, t], atol=0.35)
                checked += 1
        assert checked > 8
        assert np.linalg.norm(poses.position[-1, 1] - poses.position[0, 1]) > 0.3


def test_a_mark_of_a_model_from_a_file_is_drawn_where_its_point_is(tmp_path):
    (tmp_path / "sheet.obj").write_text(
        "mtllib sheet.mtl\nv 0 0 0\nv 4 0 0\nv 4 0 3\nv 0 0 3\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
        "usemtl paper\nf 1/1 2/2 3/3 4/4\n"
    )
    (tmp_path / "sheet.mtl").write_text("newmtl paper\nmap_Kd mark.png\n")
    cv2.imwrite(str(tmp_path / "mark.png"), marked(*MARK_AT))
    (thing,) = ModelBank.from_folder(tmp_path).things
    thing = thing.scaled(0.1)
    (point,), _ = place_on(thing, *MARK_AT)
    np.testing.assert_allclose(point, [0.4 * (0.3 - 0.5), 0, 0.3 * (0.6 - 0.5)], atol=1e-6)  # upright, not mirrored
    with Stage(scene(actor(thing)), LENS) as stage:
        states = stage.simulate(0, 1)
        view = views(looking((0.1, -1, 1.1), (0, 0, 1)))
        tracks = follow(stage, states, view, LENS, stage.poses(states), point[None], np.array([1]))
        stage.set_up(states[0], view.position[0], view.rotation[0])
        found = brightest_spot(stage.photograph(), tracks.xy[0, 0])
    np.testing.assert_allclose(found, tracks.xy[0, 0], atol=0.1)
    assert tracks.xy[0, 0, 0] < LENS.centre[0]


@pytest.fixture(scope="module")
def heap():
    """A stage with one of each thing, seen from a corner."""
    grey = np.full((8, 8, 3), 128, np.uint8)
    things = [thing.covered(grey) for thing in THINGS.values()]
    actors = [actor(t, position=(0.35 * (i % 3) - 0.3, 0.4 * (i // 3) - 0.4, 0.3)) for i, t in enumerate(things)]
    with Stage(scene(*actors), LENS) as stage:
        (state,) = stage.simulate(0, 1)
        position, rotation = looking((1.2, 0.9, 1.2), (0, 0, 0.3))
        stage.set_up(state, position, rotation)
        pixels = np.stack(np.meshgrid(*map(np.arange, LENS.size)), axis=-1).reshape(-1, 2).astype(float)
        distance, owner = stage.cast(position, LENS.directions(pixels) @ rotation.T)
        shape = LENS.size[::-1]
        yield stage.depth(), stage.owners(), distance.reshape(shape), owner.reshape(shape)


def test_rays_meet_what_is_drawn_at_each_pixel(heap):
    _, drawn, _, met = heap
    assert set(np.unique(drawn)) == set(range(len(THINGS) + 1))
    assert (drawn == met).mean() > 0.999


def test_rays_are_as_long_as_the_depth_of_each_pixel(heap):
    depth, _, distance, _ = heap
    assert np.percentile(np.abs(distance - depth), 99.5) < 1e-3


def test_rays_do_not_meet_the_solids_that_collide():
    """A cup collides as its hull, which is not drawn: a ray through its mouth reaches the ground of it."""
    sheet = np.array([(x, 0, z) for z in (-0.3, 0.3) for x in (-0.3, 0.3)])
    faces, uv = np.array([(0, 1, 3), (0, 3, 2)]), np.zeros((1, 2))
    grey = np.full((4, 4, 3), 128, np.uint8)
    surface = Surface(sheet, faces, uv, np.zeros((2, 3), int), grey)
    thing = Thing("sheet in a ball", (surface,), shapes.ball(np.full(3, 0.3)).solids)
    with Stage(scene(actor(thing)), LENS) as stage:
        distance, owner = stage.cast(np.array([0, -1.0, 1.0]), np.array([[0, 1.0, 0], [1.0, 1.0, 0]]))
    assert owner.tolist() == [1, 0]
    assert distance == pytest.approx([1.0, 3.0])  # the sheet, and past it the wall


def test_a_ray_that_meets_nothing_has_no_end():
    with Stage(scene(room=black_room()), LENS) as stage:
        distance, owner = stage.cast(np.array([0, 0, 5.0]), np.array([[0, 0, 1.0]]))
    assert owner.tolist() == [-1]
    assert distance.tolist() == [np.inf]


def test_things_fall_rest_on_the_floor_and_stay_in_the_room():
    grey = np.full((4, 4, 3), 128, np.uint8)
    thrown = [
        actor(thing.covered(grey), position=(0, 0.8 * i - 2.4, 1.0), velocity=(6, 0, 0), fixed=False)
        for i, thing in enumerate(THINGS.values())
    ]
    with Stage(scene(*thrown), LENS) as stage:
        poses = stage.poses(stage.simulate(0, 2500)[::50])
        for index, a in enumerate(thrown, 1):
            corners = np.einsum("tij,vj->tvi", poses.rotation[:, index], a.thing.vertices)
            corners += poses.position[:, index, None]
            assert corners[..., 2].min() > -0.03  # nothing sinks in
            assert np.abs(corners[..., :2]).max() < 3.05
            assert corners[-1, :, 2].min() < 0.01  # in the end it lies on the floor


def test_what_is_fixed_does_not_move():
    grey = np.full((4, 4, 3), 128, np.uint8)
    falling = actor(THINGS["ball"].covered(grey), position=(0, 0, 1.4), fixed=False)
    with Stage(scene(actor(THINGS["box"].covered(grey), position=(0, 0, 0.1)), falling), LENS) as stage:
        poses = stage.poses(stage.simulate(0, 800)[::100])
    assert np.ptp(poses.position[:, 1], axis=0).max() == 0
    assert np.ptp(poses.position[:, 2], axis=0).max() > 0.5


def test_a_scene_that_cannot_be_built_is_an_error_of_ours():
    broken = Surface(np.full((3, 3), np.nan), np.array([(0, 1, 2)]), np.zeros((3, 2)), np.array([(0, 1, 2)]))
    thing = Thing("broken", (broken,), THINGS["box"].solids).covered(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DatasetError, match="MuJoCo cannot build this scene"):
        Stage(scene(actor(thing)), LENS)
