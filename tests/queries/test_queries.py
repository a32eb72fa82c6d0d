import json
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointloom.errors import FormatError, OptionError, QueryError
from pointloom.queries import Queries
from pointloom.queries.grid import grid_points
from pointloom.queries.points import read_queries


@dataclass
class Footage:
    """Frames of one grey, with what a test paints into them."""

    size: tuple[int, int] = (64, 48)
    count: int = 10
    name: str = "test"
    painted: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def seconds(self):
        return np.arange(self.count) / 25

    def __len__(self):
        return self.count

    def __getitem__(self, frames):
        blank = np.full((self.size[1], self.size[0], 3), 128, np.uint8)
        return np.stack([self.painted.get(t, blank) for t in range(self.count)[frames]])


# ---- known points


def test_points_of_three_numbers_are_frame_x_y():
    resolved = Queries.points([[3, 10.5, 20]]).resolve(Footage())
    assert resolved.dtype == np.float32
    assert resolved.tolist() == [[3, 10.5, 20]]


def test_points_of_two_numbers_start_in_frame_zero_unless_told():
    assert Queries.points([[10.5, 20]]).resolve(Footage()).tolist() == [[0, 10.5, 20]]
    assert Queries.points([[10.5, 20]], frame=7).resolve(Footage()).tolist() == [[7, 10.5, 20]]


def test_there_may_be_no_points():
    for empty in (Queries(), Queries.points([]), Queries.points(np.zeros((0, 2)), frame=3)):
        assert empty.resolve(Footage()).shape == (0, 3)


def test_equal_points_are_kept():
    assert len(Queries.points([[0, 1, 1], [0, 1, 1]]).resolve(Footage())) == 2


def test_queries_are_put_together_in_order():
    both = Queries.points([[1, 2, 3]]) + Queries.grid(2, frame=4) + Queries.points([[5, 6]], frame=9)
    assert both.resolve(Footage())[:, 0].tolist() == [1, 4, 4, 4, 4, 9]


def test_changing_the_array_afterwards_does_not_change_the_queries():
    array = np.ones((1, 3), np.float32)
    queries = Queries.points(array)
    array[:] = 5
    queries.resolve(Footage())[:] = 6
    assert queries.resolve(Footage()).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("points", [[1, 2, 3], [[1, 2, 3, 4]], np.zeros((2, 2, 2)), [[1]], 5.0], ids=str)
def test_an_array_of_another_shape_is_refused(points):
    with pytest.raises(QueryError, match="shape"):
        Queries.points(points)


def test_what_is_no_number_is_refused():
    with pytest.raises(QueryError, match="array of numbers"):
        Queries.points([["a", "b", "c"]])


def test_a_frame_said_twice_is_refused():
    with pytest.raises(QueryError, match="leave out frame=2"):
        Queries.points([[1, 2, 3]], frame=2)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ((0, np.nan, 7), "query 1 is .*nan.*not three numbers"),
        ((np.inf, 3, 7), "query 1 is .*inf.*not three numbers"),
        ((-1, 3, 7), "query 1 starts in frame -1.*count from 0"),
        ((10, 3, 7), "query 1 starts in frame 10, .*10 frames .0..9.*subtract the clip's first frame"),
        ((5.7, 3, 7), r"query 1 starts in frame 5\.7\. .*whole numbers"),
        ((0, 63.6, 7), r"query 1 lies at \(63\.6, 7\), outside the frame of 64 x 48"),
        ((0, 3, -0.6), "query 1 lies at .*outside"),
    ],
)
def test_a_query_that_cannot_be_tracked_is_named_with_its_value(query, message):
    with pytest.raises(QueryError, match=message):
        Queries.points([(0, 1, 1), query]).resolve(Footage())


def test_the_error_says_how_many_others_there_are():
    with pytest.raises(QueryError, match="2 others"):
        Queries.points([(0, 1, 1), (0, -9, 1), (0, -9, 1), (0, -9, 1)]).resolve(Footage())


def test_the_outer_half_of_the_border_pixels_belongs_to_the_frame():
    # pixel centres are integers: 64 x 48 pixels cover [-0.5, 63.5] x [-0.5, 47.5]
    corners = [(0, -0.5, -0.5), (9, 63.5, 47.5)]
    assert Queries.points(corners).resolve(Footage()).tolist() == [list(map(float, c)) for c in corners]


# ---- regular arrangements


def test_cotrackers_grid_has_a_margin_of_a_64th_of_the_width():
    # by hand, 384 x 512: the margin is 8, so x = 8, 132, ... 504 and y = 8, 100, ... 376, x fastest
    points = grid_points(5, (384, 512))
    assert points[:5].tolist() == [[8, 8], [132, 8], [256, 8], [380, 8], [504, 8]]
    assert points[::5, 1].tolist() == [8, 100, 192, 284, 376]


def test_cotrackers_grid_can_lie_around_a_centre():
    # margin 50 / 64 = 0.78125 of an area of 50 x 50 around x = 10, y = 20
    points = grid_points(2, (50, 50), centre=(20, 10))
    assert points.tolist() == [[-14.21875, -4.21875], [34.21875, -4.21875], [-14.21875, 44.21875], [34.21875, 44.21875]]


def test_cotrackers_grid_of_one_is_the_middle_whatever_the_centre():
    assert grid_points(1, (48, 64), centre=(3, 3)).tolist() == [[32, 24]]


def test_a_grid_lies_evenly_in_the_frame():
    # 64 x 48 pixels, margin 1: raster 1..63 and 1..47 (the frame reaches from 0 to 64), half a pixel less as centres
    xy = Queries.grid(3).resolve(Footage())[:, 1:]
    assert xy[:3].tolist() == [[0.5, 0.5], [31.5, 0.5], [62.5, 0.5]]
    assert xy[::3, 1].tolist() == [0.5, 23.5, 46.5]


@given(n=st.integers(1, 12), width=st.integers(1, 900), height=st.integers(1, 900))
def test_every_grid_lies_inside_and_mirrors_onto_itself(n, width, height):
    xy = Queries.grid(n).resolve(Footage(size=(width, height)))[:, 1:]
    assert len(xy) == n * n
    np.testing.assert_allclose(xy[::-1], [width - 1, height - 1] - xy, atol=1e-3)


@given(stride=st.integers(1, 50), width=st.integers(1, 90), height=st.integers(1, 90))
def test_dense_queries_leave_no_pixel_further_than_a_stride_from_one(stride, width, height):
    xy = Queries.dense(stride).resolve(Footage(size=(width, height)))[:, 1:]
    for axis, side in enumerate((width, height)):
        values = np.unique(xy[:, axis])
        assert np.abs(np.arange(side)[:, None] - values).min(axis=1).max() < stride
        assert np.all(np.diff(values) == stride)


def test_a_stride_of_one_is_every_pixel():
    assert len(Queries.dense(1).resolve(Footage(size=(6, 4)))) == 24


# ---- masks


def mask_with(*pixels) -> np.ndarray:
    mask = np.zeros((48, 64), np.uint8)
    for x, y in pixels:
        mask[y, x] = 1
    return mask


def test_mask_queries_lie_on_the_object_and_at_the_spacing():
    mask = np.zeros((48, 64), bool)
    mask[10:30, 20:50] = True
    xy = Queries.mask(mask, spacing_px=4, frame=2).resolve(Footage())
    assert set(xy[:, 0]) == {2}
    assert mask[xy[:, 2].astype(int), xy[:, 1].astype(int)].all()
    # 20 x 30 pixels at a spacing of 4: rows 13, 17, 21, 25, 29; columns 21, 25, ... 49
    assert np.unique(xy[:, 2]).tolist() == [13, 17, 21, 25, 29]
    assert np.unique(xy[:, 1]).tolist() == [21, 25, 29, 33, 37, 41, 45, 49]


def test_an_object_smaller_than_the_spacing_gets_its_middle():
    assert Queries.mask(mask_with((40, 30), (41, 30), (42, 30)), spacing_px=16).resolve(Footage()).tolist() == [
        [0, 41, 30]
    ]


def test_a_mask_is_read_from_a_png_whatever_its_colours(tmp_path):
    pictures = {
        "grey": mask_with((40, 30)),
        "dark_blue": mask_with((40, 30))[..., None] * np.array([1, 0, 0], np.uint8),
        "sixteen_bit": mask_with((40, 30)).astype(np.uint16),
        "opaque": np.concatenate(
            [np.repeat(mask_with((40, 30))[..., None], 3, 2), np.full((48, 64, 1), 255, np.uint8)], 2
        ),
    }
    for name, picture in pictures.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
        assert Queries.mask(tmp_path / f"{name}.png").resolve(Footage()).tolist() == [[0, 40, 30]], name


def test_a_mask_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(QueryError, match=r"64 x 48 pixels, the video 65 x 48"):
        Queries.mask(mask_with((1, 1))).resolve(Footage(size=(65, 48)))


def test_an_empty_mask_is_refused():
    with pytest.raises(QueryError, match="empty"):
        Queries.mask(mask_with())


def test_a_mask_that_is_no_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(QueryError, match="not an image"):
        Queries.mask(tmp_path / "a.png")
    with pytest.raises(QueryError, match="no mask"):
        Queries.mask(tmp_path / "b.png")
    with pytest.raises(QueryError, match="shape"):
        Queries.mask(np.ones((2, 2, 2)))


# ---- SIFT


def footage_with_blobs() -> Footage:
    y, x = np.mgrid[:48, :64]
    picture = 100.0
    for (cx, cy), height in {(20, 15): 150, (45, 30): 60}.items():
        picture = picture + height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 3.0**2))
    return Footage(painted={4: np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, 2)})


def test_sift_queries_lie_on_blobs_strongest_first():
    resolved = Queries.sift(2, frame=4).resolve(footage_with_blobs())
    np.testing.assert_allclose(resolved, [[4, 20, 15], [4, 45, 30]], atol=0.3)


def test_sift_gives_each_position_once_and_fewer_where_there_are_fewer():
    resolved = Queries.sift(500, frame=4).resolve(footage_with_blobs())
    assert 2 <= len(resolved) < 500
    assert len(np.unique(resolved, axis=0)) == len(resolved)
    assert len(Queries.sift(5, frame=0).resolve(footage_with_blobs())) == 0


def test_sift_in_a_frame_that_is_not_there_is_refused():
    with pytest.raises(QueryError, match=r"frame 10, but the video has 10 frames \(0..9\)"):
        Queries.sift(5, frame=10).resolve(Footage())


@pytest.mark.parametrize(
    "build",
    [
        lambda: Queries.grid(0),
        lambda: Queries.dense(0),
        lambda: Queries.sift(0),
        lambda: Queries.mask(mask_with((1, 1)), spacing_px=0),
    ],
    ids=["grid", "dense", "sift", "mask"],
)
def test_a_request_for_nothing_is_refused(build):
    with pytest.raises(OptionError, match="at least 1"):
        build()


# ---- files


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.csv", "2,10.5,20\n3,4,5\n"),
        ("named.csv", "x,y,label,frame\n10.5,20,nose,2\n\n4,5,tail,3\n"),
        ("spaced.csv", "\ufefft, x, y\r\n2, 10.5, 20\r\n3, 4, 5\r\n"),
        ("lists.json", "[[2, 10.5, 20], [3, 4, 5]]"),
        ("named.json", '[{"frame": 2, "x": 10.5, "y": 20}, {"t": 3, "x": 4, "y": 5, "label": "tail"}]'),
    ],
)
def test_queries_are_read_from_text(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert Queries.from_file(tmp_path / name).resolve(Footage()).tolist() == [[2, 10.5, 20], [3, 4, 5]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "10.5,20\n"),
        ("b.csv", "y,x\n20,10.5\n"),
        ("c.json", "[[10.5, 20]]"),
        ("d.json", '[{"x": 10.5, "y": 20}]'),
    ],
)
def test_positions_alone_start_in_frame_zero(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_queries(tmp_path / name).tolist() == [[0, 10.5, 20]]


def test_queries_are_read_from_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[2, 3, 4]]))
    np.savez(tmp_path / "b.npz", queries=np.array([[2, 3, 4]]))
    np.savez(tmp_path / "c.npz", xy=np.zeros((1, 1, 2)), query=np.array([[2, 3, 4]]))
    for name in ("a.npy", "b.npz", "c.npz"):
        assert read_queries(tmp_path / name).tolist() == [[2, 3, 4]], name


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_an_empty_file_holds_no_queries(tmp_path, name):
    (tmp_path / name).write_text("[]" if name.endswith("json") else "")
    assert read_queries(tmp_path / name).shape == (0, 3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "frame,x,y\n1,2,3\n1,2\n", "line 3 is '1,2'"),
        ("a.csv", "1;2;3\n", "separated by commas"),
        ("a.csv", "frame,x\n1,2\n", "expected frame, x and y"),
        ("a.json", '{"x": 1}', "expected a list"),
        ("a.json", '[{"x": 1}]', "query 0"),
        ("a.json", "[[1, 2, 3], [1, 2]]", "array of numbers"),
    ],
)
def test_a_fault_in_a_file_is_named_with_its_place(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(QueryError, match=message) as caught:
        Queries.from_file(tmp_path / name)
    assert name in str(caught.value)


def test_a_file_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "a.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "b.npz", queries=np.array([{"a": 1}], dtype=object))
    for name in ("a.json", "a.npz", "b.npz", "missing.csv", "a.txt"):
        with pytest.raises(FormatError, match=name):
            Queries.from_file(tmp_path / name)
    np.savez(tmp_path / "c.npz", points=np.zeros(3))
    with pytest.raises(QueryError, match="holds points"):
        Queries.from_file(tmp_path / "c.npz")


def test_queries_say_what_they_are():
    text = repr(Queries.grid(3) + Queries.points([[1, 2]]) + Queries.mask(mask_with((1, 1))))
    assert text == ("Queries(samplers=(Grid(size=3, frame=0), Points(1), Mask(1 pixels, spacing_px=8, frame=0)))")


def test_json_numbers_survive(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([[1, 2.25, 3.5]]))
    assert read_queries(tmp_path / "a.json").tolist() == [[1, 2.25, 3.5]]
