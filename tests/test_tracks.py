from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointloom.errors import FormatError, OptionError
from pointloom.tracks import SEEN, SEEN_RULES, SeenRule, Tracks, seen_rule


def some_tracks(points: int = 3, frames: int = 5, seed: int = 0) -> Tracks:
    random = np.random.default_rng(seed)
    return Tracks(
        xy=random.uniform(0, 60, (points, frames, 2)),
        visibility=random.uniform(0, 1, (points, frames)),
        confidence=random.uniform(0, 1, (points, frames)),
        query=np.stack([np.arange(points), np.full(points, 4.5), np.full(points, 7.25)], axis=1),
        seconds=np.cumsum(random.uniform(0.01, 0.1, frames)),
        size=(64, 48),
        meta={"model": "tiny", "options": {"step": 4}},
    )


@given(points=st.integers(0, 4), frames=st.integers(0, 4), seed=st.integers(0, 99))
def test_saving_then_loading_is_identity(tmp_path_factory, points, frames, seed):
    tracks = some_tracks(points, frames, seed)
    path = tmp_path_factory.mktemp("tracks") / "a.npz"
    tracks.save(path)
    assert Tracks.load(path) == tracks


def test_the_file_is_plain_arrays_that_numpy_reads_without_pickle(tmp_path):
    some_tracks().save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        kinds = {name: (file[name].dtype.str, file[name].shape) for name in file.files if name != "meta"}
    assert kinds == {
        "xy": ("<f4", (3, 5, 2)),
        "visibility": ("<f4", (3, 5)),
        "confidence": ("<f4", (3, 5)),
        "query": ("<f4", (3, 3)),
        "seconds": ("<f8", (5,)),
        "size": ("<i8", (2,)),
        "ids": ("<i8", (3,)),
    }


def test_the_same_tracks_give_the_same_bytes(tmp_path):
    some_tracks().save(tmp_path / "a.npz")
    some_tracks().save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_failed_save_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    some_tracks().save(tmp_path / "a.npz")

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space"):
        some_tracks(points=1).save(tmp_path / "a.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    assert Tracks.load(tmp_path / "a.npz") == some_tracks()


def test_a_newer_format_is_refused_with_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr("pointloom.tracks.FILE_FORMAT", 2)
    some_tracks().save(tmp_path / "a.npz")
    monkeypatch.undo()
    with pytest.raises(FormatError, match=r"format 2.*reads format 1"):
        Tracks.load(tmp_path / "a.npz")


def write_text(path: Path) -> None:
    path.write_text("no zip")


def write_empty(path: Path) -> None:
    path.write_bytes(b"")


def write_half(path: Path) -> None:
    some_tracks().save(path)
    path.write_bytes(path.read_bytes()[:-400])


def write_flipped_byte(path: Path) -> None:
    some_tracks().save(path)
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF  # in the numbers of xy: the checksum of the zip notices
    path.write_bytes(data)


def write_other_arrays(path: Path) -> None:
    np.savez(path, points=np.zeros(3))


def write_pickle(path: Path) -> None:
    np.savez(path, xy=np.array([{"a": 1}], dtype=object), meta=np.array("{}"))


def write_missing_field(path: Path) -> None:
    np.savez(path, xy=np.zeros((1, 1, 2)), size=np.array([4, 4]), meta=np.array('{"format": 1}'))


def write_one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def write_unequal_lengths(path: Path) -> None:
    some_tracks().save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "visibility": arrays["visibility"][:, :2]})


@pytest.mark.parametrize(
    "write",
    [
        write_text,
        write_empty,
        write_half,
        write_flipped_byte,
        write_other_arrays,
        write_pickle,
        write_missing_field,
        write_one_array,
        write_unequal_lengths,
    ],
    ids=lambda f: f.__name__.removeprefix("write_"),
)
def test_a_file_of_something_else_is_refused_by_name(tmp_path, write):
    write(tmp_path / "a.npz")
    with pytest.raises(FormatError, match=r"a\.npz"):
        Tracks.load(tmp_path / "a.npz")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FormatError, match="no file"):
        Tracks.load(tmp_path / "a.npz")


def test_only_npz_is_saved(tmp_path):
    with pytest.raises(OptionError, match="npz"):
        some_tracks().save(tmp_path / "a.csv")


def test_meta_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    tracks = Tracks(**{**vars(some_tracks()), "meta": {"model": object()}})
    with pytest.raises(OptionError, match="JSON"):
        tracks.save(tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_ids_count_from_zero_when_left_out():
    assert some_tracks().ids.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("visibility", np.zeros((3, 4)), "visibility must have shape"),
        ("query", np.zeros((2, 3)), "query must have shape"),
        ("seconds", np.zeros(4), "seconds must have shape"),
        ("ids", np.array([1, 1, 2]), "all be different"),
        ("xy", np.zeros((3, 5)), "xy must have shape"),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(field, value, message):
    with pytest.raises(OptionError, match=message):
        Tracks(**{**vars(some_tracks()), field: value})


# ---- parts


def test_selected_points_keep_their_ids():
    picked = some_tracks().select([2, 0])
    assert picked.ids.tolist() == [2, 0]
    assert np.array_equal(picked.xy, some_tracks().xy[[2, 0]])
    assert np.array_equal(picked.query, some_tracks().query[[2, 0]])


def test_points_are_selected_by_a_bool_for_each():
    assert some_tracks().select(np.array([True, False, True])).ids.tolist() == [0, 2]


def test_a_slice_of_frames_counts_query_frames_from_its_first():
    part = some_tracks().between(1, 4)
    assert part.frames == 3
    assert part.query[:, 0].tolist() == [-1, 0, 1]
    assert np.array_equal(part.seconds, some_tracks().seconds[1:4])
    assert np.array_equal(part.xy, some_tracks().xy[:, 1:4])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 6)])
def test_a_slice_outside_the_frames_is_refused(start, stop):
    with pytest.raises(OptionError, match="do not lie"):
        some_tracks().between(start, stop)


def test_joining_what_was_selected_gives_the_whole():
    tracks = some_tracks()
    assert Tracks.join([tracks.select([0]), tracks.select([1, 2])]) == tracks


def test_joining_equal_ids_counts_anew():
    joined = Tracks.join([some_tracks(), some_tracks()])
    assert joined.ids.tolist() == [0, 1, 2, 3, 4, 5]


def test_joining_other_frames_is_refused():
    with pytest.raises(OptionError, match="part 1"):
        Tracks.join([some_tracks(), some_tracks().between(0, 3)])


def test_joining_nothing_is_refused():
    with pytest.raises(OptionError, match="nothing to join"):
        Tracks.join([])


def test_one_different_number_makes_tracks_unequal():
    for name in ("xy", "visibility", "confidence", "query", "seconds"):
        fields = dict(vars(some_tracks()))
        fields[name] = fields[name].copy()
        fields[name].flat[0] += 1
        assert Tracks(**fields) != some_tracks(), name
    assert Tracks(**{**vars(some_tracks()), "meta": {}}) != some_tracks()
    assert Tracks(**{**vars(some_tracks()), "size": (1, 1)}) != some_tracks()


# ---- seen


def seen_at(visibility: float, confidence: float, rule: SeenRule | str = SEEN) -> bool:
    tracks = Tracks(np.zeros((1, 1, 2)), [[visibility]], [[confidence]], np.zeros((1, 3)), [0.0], (4, 4))
    return bool(tracks.seen(rule)[0, 0])


def test_by_default_visibility_times_confidence_decides():
    assert seen_rule("default") is SEEN
    assert (SEEN.on, SEEN.threshold) == ("product", 0.35)
    assert seen_at(0.8, 0.8)
    assert not seen_at(0.5, 0.6)
    assert not seen_at(1.0, 0.35)  # strictly above


def test_the_official_rules_have_names():
    assert SEEN_RULES["cotracker3-offline"] == SeenRule("visibility", 0.9)
    assert SEEN_RULES["cotracker3-online"] == SeenRule("product", 0.6)
    assert SEEN_RULES["cotracker3-evaluation"] == SeenRule("product", 0.6)
    assert seen_at(0.95, 0.0, "cotracker3-offline")
    assert not seen_at(0.95, 0.0, "cotracker3-online")


def test_an_unknown_rule_is_answered_with_the_known_ones():
    with pytest.raises(OptionError, match="cotracker3-online"):
        seen_rule("cotracker")


def test_a_rule_refuses_what_is_no_probability():
    with pytest.raises(OptionError, match=r"0\.\.1"):
        SeenRule("product", 60)
    with pytest.raises(OptionError, match="visibility"):
        SeenRule("confidence", 0.5)
