"""Where clips come from: pools, data sets and generators, by weight; and what happens to those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.pool import write_clip
from pointloom.errors import DatasetError, OptionError
from pointloom.training.recipe import LayeredRecipe, SourceShare
from pointloom.training.sources import ATTEMPTS, Passed, Sources


def clip(name: str, light: int = 0) -> AnnotatedClip:
    known = np.ones((3, 4), bool)
    return AnnotatedClip(name, np.full((4, 32, 32, 3), light, np.uint8), np.ones((3, 4, 2), np.float32), known, known)


def kubric_sequence(folder: Path, name: str) -> None:
    (folder / name / "frames").mkdir(parents=True)
    for t in range(4):
        cv2.imwrite(str(folder / name / "frames" / f"{t:03}.png"), np.full((32, 32, 3), 200, np.uint8))
    content = np.empty((), object)
    content[()] = {"coords": np.full((3, 4, 2), 5.5), "visibility": np.zeros((3, 4), bool)}
    np.save(folder / name / f"{name}.npy", content, allow_pickle=True)


def drawn(sources: Sources, count: int, seed: int = 0) -> list[AnnotatedClip]:
    rng = np.random.default_rng(seed)
    return [sources.draw(rng, lambda clip: clip)[0] for _ in range(count)]


def test_sources_of_all_kinds_are_mixed_by_weight(tmp_path: Path) -> None:
    write_clip(tmp_path / "pool", clip("a"))
    kubric_sequence(tmp_path / "kubric", "0000")
    cv2.imwrite(str(tmp_path / "photo.png"), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    sources = Sources.open(
        [
            SourceShare(folder=str(tmp_path / "pool"), weight=3),
            SourceShare("kubric", str(tmp_path / "kubric"), weight=6),
            SourceShare("layered", str(tmp_path), weight=1, layered=LayeredRecipe((32, 32), frames=4, tracks=8)),
        ]
    )
    kinds = [{"a": "pool", "0000": "kubric"}.get(one.name, "layered") for one in drawn(sources, 100)]
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert 20 < counts["pool"] < 40
    assert 50 < counts["kubric"] < 70
    assert 4 < counts["layered"] < 20
    layered = [one for one in drawn(sources, 100) if one.name.startswith("layered")]
    assert {one.frames.shape for one in layered} == {(4, 32, 32, 3)}
    assert len({one.name for one in layered}) == len(layered)


def test_clips_of_kubric_lie_where_they_are(tmp_path: Path) -> None:
    kubric_sequence(tmp_path, "0000")
    (one,) = drawn(Sources.open([SourceShare("kubric", str(tmp_path))]), 1)
    assert (one.xy == 5).all()  # the first pixel's centre is (0.5, 0.5) there
    assert (one.frames == 200).all()


def test_layered_clips_need_no_photos() -> None:
    share = SourceShare("layered", layered=LayeredRecipe((32, 32), frames=2, tracks=4))
    assert drawn(Sources.open([share]), 1)[0].xy.shape == (4, 2, 2)


def test_what_cannot_be_used_is_passed_over_and_named(tmp_path: Path) -> None:
    for number in range(6):
        write_clip(tmp_path / "pool", clip(f"good-{number}", 1))
    write_clip(tmp_path / "pool", clip("cut off"))
    write_clip(tmp_path / "pool", clip("without frames"))
    write_clip(tmp_path / "pool", clip("refused", 2))
    kubric_sequence(tmp_path / "kubric", "0001")
    tracks = tmp_path / "pool" / "cut off" / "tracks.npz"
    tracks.write_bytes(tracks.read_bytes()[:100])
    (tmp_path / "pool" / "without frames" / "frames.npy").unlink()
    frame = tmp_path / "kubric" / "0001" / "frames" / "002.png"
    frame.write_bytes(frame.read_bytes()[:40])
    sources = Sources.open(
        [
            SourceShare(folder=str(tmp_path / "pool"), weight=3),
            SourceShare("kubric", str(tmp_path / "kubric"), weight=1),
        ]
    )

    def use(one: AnnotatedClip) -> str:
        if one.frames.max() == 2:
            raise DatasetError("too few points")
        return one.name

    rng = np.random.default_rng(0)
    draws = [sources.draw(rng, use) for _ in range(40)]
    assert {name for name, _ in draws} == {f"good-{number}" for number in range(6)}
    passed = {Path(one.path).relative_to(tmp_path).as_posix(): one.reason for _, of_one in draws for one in of_one}
    assert set(passed) == {"pool/cut off", "pool/without frames", "pool/refused", "kubric/0001"}
    assert passed["pool/refused"] == "too few points"
    assert all(reason for reason in passed.values())


def test_sources_without_any_usable_clip_end_the_run(tmp_path: Path) -> None:
    write_clip(tmp_path, clip("a"))
    tried: list[Passed] = []

    def never(one: AnnotatedClip) -> None:
        tried.append(Passed(one.name, ""))
        raise DatasetError("not today.")

    with pytest.raises(DatasetError, match=r"in a row could not be used.*/a, because: not today"):
        Sources.open([SourceShare(folder=str(tmp_path))]).draw(np.random.default_rng(0), never)
    assert len(tried) == ATTEMPTS


def test_what_is_wrong_with_a_source_is_said(tmp_path: Path) -> None:
    write_clip(tmp_path, clip("a"))
    with pytest.raises(OptionError, match="one after the other"):
        Sources.open([SourceShare("clips", str(tmp_path))])
    with pytest.raises(DatasetError, match="no data set is called 'kubrik'"):
        Sources.open([SourceShare("kubrik", str(tmp_path))])
    with pytest.raises(OptionError, match="needs a folder"):
        Sources.open([SourceShare("kubric")])
    with pytest.raises(OptionError, match="weights"):
        Sources.open([SourceShare(folder=str(tmp_path), weight=0)])
