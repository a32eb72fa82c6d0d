import json

import cv2
import numpy as np
import pytest

from pointloom.datasets.physics.obj import ModelBank, read_obj
from pointloom.errors import DatasetError

TETRAHEDRON = "v 0 0 0\nv 2 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


def model(tmp_path, text, name="thing.obj"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    return path


def test_a_model_is_centred_on_the_box_around_it(tmp_path):
    thing = read_obj(model(tmp_path, TETRAHEDRON))
    np.testing.assert_allclose(thing.vertices.min(axis=0), [-1, -0.5, -0.5])
    np.testing.assert_allclose(thing.vertices.max(axis=0), [1, 0.5, 0.5])
    assert thing.name == "thing"
    assert thing.length == 2


def test_without_convex_pieces_a_model_collides_as_its_hull(tmp_path):
    thing = read_obj(model(tmp_path, TETRAHEDRON))
    (solid,) = thing.solids
    np.testing.assert_allclose(solid.points, thing.vertices)


def test_convex_pieces_beside_a_model_are_used_and_move_with_it(tmp_path):
    piece = [[0, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 1]]
    (tmp_path / "collision.json").write_text(json.dumps([piece, piece]))
    thing = read_obj(model(tmp_path, TETRAHEDRON))
    assert len(thing.solids) == 2
    np.testing.assert_allclose(thing.solids[0].points, np.array(piece) - [1, 0.5, 0.5])


def test_a_flat_piece_becomes_a_thin_box(tmp_path):
    thing = read_obj(model(tmp_path, "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n"))
    assert np.ptp(thing.solids[0].points, axis=0).min() > 0.01
    np.testing.assert_allclose(np.ptp(thing.solids[0].points, axis=0)[:2], 1)


def test_faces_of_more_corners_are_cut_into_triangles_and_indices_may_count_back(tmp_path):
    quad = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    (forward,) = read_obj(model(tmp_path, quad + "f 1/1/9 2/2 3/3 4/4\n")).surfaces
    (back,) = read_obj(model(tmp_path, quad + "f -4/-4 -3/-3 -2/-2 -1/-1  # a comment\n")).surfaces
    assert forward.faces.tolist() == back.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert forward.uv[forward.uv_faces[1]].tolist() == back.uv[back.uv_faces[1]].tolist() == [[0, 0], [1, 1], [0, 1]]


def test_each_material_is_a_surface_with_its_texture_made_no_larger_than_needed(tmp_path):
    cv2.imwrite(str(tmp_path / "red.png"), np.full((600, 1024, 3), (0, 0, 255), np.uint8))
    (tmp_path / "thing.mtl").write_text("newmtl a\nmap_Kd -s 1 1 1 red.png\nnewmtl b\nKd 1 1 1\n")
    places = "mtllib thing.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0.1\nvt 0 0\nvt 1 0\nvt 1 1\n"
    thing = read_obj(model(tmp_path, places + "usemtl a\nf 1/1 2/2 3/3\nusemtl b\nf 1/1 3/3 4/2\n"))
    red, bare = thing.surfaces
    assert red.texture.shape == (300, 512, 3)
    assert red.texture[0, 0].tolist() == [255, 0, 0]
    assert bare.texture is None
    cover = np.zeros((4, 4, 3), np.uint8)
    assert thing.covered(cover).surfaces[1].texture is cover
    assert thing.covered(cover).surfaces[0].texture is red.texture


def test_a_model_without_places_in_a_texture_is_unfolded_without_stretching(tmp_path):
    (surface,) = read_obj(model(tmp_path, TETRAHEDRON)).surfaces
    assert surface.uv.min() >= 0
    assert surface.uv.max() <= 1
    bottom = surface.uv[surface.uv_faces[0]]  # in the plane of x and y, twice as long as wide
    assert sorted(np.ptp(bottom, axis=0)) == pytest.approx([0.5, 1.0])


def test_all_models_of_a_folder_are_found_in_order(tmp_path):
    for name in ("b/model.obj", "a/Model.OBJ", "c.obj"):
        model(tmp_path, TETRAHEDRON, name)
    assert [thing.name for thing in ModelBank.from_folder(tmp_path).things] == ["Model", "b", "c"]


def test_thin_models_are_picked_less_often(tmp_path):
    model(tmp_path, TETRAHEDRON, "a.obj")
    model(tmp_path, TETRAHEDRON.replace("v 2 0 0", "v 40 0 0"), "b.obj")
    bank = ModelBank.from_folder(tmp_path)
    rng = np.random.default_rng(0)
    picked = [bank.pick(rng).name for _ in range(200)]
    assert 0 < picked.count("b") < 50


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("v 0 0 zero\n", r"damaged in line 1, 'v 0 0 zero'"),
        ("v 0 0 0\nf 1 2 3\n", r"damaged in line 2, .*there is no 2 among 1"),
        ("v 0 0 0\nf 1 1\n", "a face has at least three corners"),
        ("v 0 0 0\n", r"has 0 triangles, but needs 1\.\."),
        ("v 0 0 0\nf 1 1 1\n", "has no extent"),
        ("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "numbers that are no numbers"),
        ("v 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", r"damaged in line 1, .*3 coordinates are needed"),
    ],
)
def test_a_damaged_model_is_refused(tmp_path, text, says):
    with pytest.raises(DatasetError, match=rf"thing\.obj .*{says}"):
        read_obj(model(tmp_path, text))


def test_a_missing_texture_is_named(tmp_path):
    (tmp_path / "thing.mtl").write_text("newmtl a\nmap_Kd gone.jpg\n")
    with pytest.raises(DatasetError, match=r"gone\.jpg of a model is missing"):
        read_obj(model(tmp_path, "mtllib thing.mtl\n" + TETRAHEDRON))


@pytest.mark.parametrize("content", ["[[[0, 0]]]", "[[0, 0, 0]]", "nonsense", '[[["a", 0, 0]]]'])
def test_damaged_convex_pieces_are_refused(tmp_path, content):
    (tmp_path / "collision.json").write_text(content)
    with pytest.raises(DatasetError, match=r"collision\.json.* convex piece"):
        read_obj(model(tmp_path, TETRAHEDRON))


def test_a_folder_without_models_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="holds no OBJ file"):
        ModelBank.from_folder(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        ModelBank.from_folder(tmp_path / "gone")
