"""The page: everything in one file, nothing from outside, nothing mixed that must stay apart."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from evaluation.made_clips import SIZE, dataset, joint_clip, masked_clip, sliding_clip
from evaluation.made_results import HOSTILE, RESULTS, video
from pointloom.errors import MissingExtraError
from pointloom.evaluation import plots, report, sheets
from pointloom.evaluation.page import page
from pointloom.evaluation.predict import PredictionStore, predict
from pointloom.evaluation.protocols import PROTOCOLS
from pointloom.evaluation.published import PUBLISHED
from pointloom.evaluation.report import worst_clips, write_report
from pointloom.evaluation.results import Results
from pointloom.evaluation.run import describe_run
from pointloom.evaluation.score import score, summarise
from pointloom.evaluation.sheets import Outcome, tiles

VOID = {"meta", "img", "br", "link", "input"}


class Elements(HTMLParser):
    """Collects elements, and checks that each is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


@pytest.fixture(scope="module")
def shown() -> str:
    return page(RESULTS)


def section(text: str, title: str) -> str:
    """What stands below a heading, to the next one."""
    return re.search(rf"<h2>{title}</h2>(.*?)(<h2>|<footer>)", text, re.DOTALL)[1]


def words(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))


def test_the_page_is_sound_and_loads_nothing(shown: str) -> None:
    elements = Elements(shown).found
    assert not [tag for tag, _ in elements if tag in ("script", "link", "iframe", "object", "embed")]
    for _, attributes in elements:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert not re.findall(r"url\((?!#)|@import", shown)


def test_names_from_outside_are_escaped(shown: str) -> None:
    worst = worst_clips(RESULTS)
    with_sheets = page(RESULTS, worst, {(v.model, v.video): [sheets.Tile(3, b"jpeg")] for v in worst})
    assert with_sheets.count("&lt;script&gt;") > shown.count("&lt;script&gt;") > 0
    assert "<script>" not in with_sheets
    assert "clips &amp; more" in shown
    Elements(with_sheets)


def test_a_name_is_no_formula() -> None:
    assert "$x^2$" in plots.clips(RESULTS, "points")


def test_the_page_is_readable_in_light_and_dark(shown: str) -> None:
    assert "prefers-color-scheme: dark" in shown
    drawn = re.search(r"<svg.*?</svg>", shown, re.DOTALL)[0]
    assert "currentColor" in drawn
    assert plots.INK not in shown
    assert not re.search(r"(fill|stroke): #(000000|ffffff)", drawn)


def test_the_first_sentence_says_who_is_best(shown: str) -> None:
    lead = words(re.search(r'<p class="lead">.*?</p>', shown)[0])
    assert "Best AJ over 2 clips: tiny" in lead
    assert "61.2 %" in lead
    assert "next still, 7.0 %" in lead


def test_the_best_need_not_come_first() -> None:
    turned = replace(RESULTS, rows=sorted(RESULTS.rows, key=lambda row: row.model))
    assert turned.models == ["still", "tiny"]
    assert "Best AJ over 2 clips: tiny" in words(page(turned))


def test_tables_come_before_figures(shown: str) -> None:
    assert shown.index("<table") < shown.index("<svg")


def test_the_best_of_a_group_is_bold_and_has_its_interval(shown: str) -> None:
    table = section(shown, "Scores")
    assert "<b>61.2*</b> <small>[40.0, 80.0]</small>" in table
    assert "<b>7.0</b>" not in table


def test_joints_have_a_table_of_their_own(shown: str) -> None:
    assert "55.5" not in section(shown, "Scores")
    assert "<b>60.5</b>" in section(shown, "Joints of animals")


def test_a_share_that_is_neither_good_nor_bad_has_no_best() -> None:
    table = section(page(RESULTS), "Agreement with masks")
    assert "<b>45.5</b>" in table
    assert "98.5" in table
    assert "<b>98.5</b>" not in table


def test_a_group_that_is_special_says_so(shown: str) -> None:
    assert re.search(r"composite.{0,60}semi-synthetic", words(section(shown, "Scores")))


def test_clips_without_a_value_are_named(shown: str) -> None:
    assert re.search(r"Without a value.*a/blank \(AJ, OA\)", words(shown))


def test_published_numbers_stand_apart_with_their_source(shown: str) -> None:
    before, after = shown.split("<h2>Reported by others</h2>")
    assert "CoTracker3 offline" not in before
    assert "tapnet" not in before
    reported = words(after)
    assert "68.3" in reported
    assert "README of facebookresearch/co-tracker" in reported


def test_published_numbers_of_the_data_set_are_open_and_the_others_folded_away() -> None:
    davis = replace(RESULTS, run={**RESULTS.run, "dataset": {"name": "tapvid-davis", "folder": "davis"}})
    reported = section(page(davis), "Reported by others")
    opened, folded = reported.split("<details>")
    assert "65.25" in opened  # TAPNext, as it was printed
    assert "76.9" in opened
    assert "<h3>robotap" not in opened
    assert "<h3>robotap" in folded


def test_every_published_number_is_a_percentage_with_a_source_and_stands_once() -> None:
    assert all(0 <= entry.value <= 100 and entry.source for entry in PUBLISHED)
    keys = [(e.dataset, e.setting, e.model, e.metric) for e in PUBLISHED]
    assert len(set(keys)) == len(keys)
    assert all(entry.metric in plots.NAMES for entry in PUBLISHED)


def test_the_page_says_by_what_it_was_made(shown: str) -> None:
    made = words(section(shown, "Made by"))
    for said in ("pointloom evaluate made:clips --model tiny", "weights abc123", "pointloom-1", "no weights"):
        assert said in made


def test_nothing_to_show_gives_a_page_all_the_same() -> None:
    Elements(page(Results(run=RESULTS.run, rows=[])))


# ---- figures


def test_a_figure_is_the_same_every_time() -> None:
    assert plots.curves(RESULTS, "delta_avg") == plots.curves(RESULTS, "delta_avg")


def test_figures_on_one_page_do_not_share_what_they_refer_to(shown: str) -> None:
    drawn = re.findall(r"<svg.*?</svg>", shown, re.DOTALL)
    referred = [set(re.findall(r'(?:url\(#|href="#)([\w-]+)', figure)) for figure in drawn]
    assert len(drawn) > 5
    for k, own in enumerate(referred):
        assert all(f'id="{name}"' in drawn[k] for name in own)
        assert not any(own & other for other in referred[k + 1 :])


def test_classes_that_no_clip_reaches_are_left_out() -> None:
    drawn = plots.curves(RESULTS, "delta_avg")
    assert ">257<" not in drawn


def test_many_clips_are_sorted_instead_of_named() -> None:
    many = [video(f"clip {k}", "tiny", k / 2) for k in range(plots.MOST_CLIPS + 1)]
    drawn = plots.clips(replace(RESULTS, per_video=many), "points")
    assert "clip 7" not in drawn
    assert "from the worst to the best" in drawn
    assert "clip 7" in plots.clips(replace(RESULTS, per_video=many[:20]), "points")


def test_errors_that_are_all_zero_or_unknown_are_drawn_too() -> None:
    perfect = [replace(curve, error_px=[0.0] * len(curve.error_px)) for curve in RESULTS.curves[:3]]
    assert plots.curves(replace(RESULTS, curves=perfect), "error_px")
    empty = [replace(curve, error_px=[np.nan] * len(curve.error_px)) for curve in RESULTS.curves[:3]]
    assert plots.curves(replace(RESULTS, curves=[*perfect[:1], *empty[1:]]), "error_px")
    assert plots.curves(replace(RESULTS, curves=[*RESULTS.curves[:1], *empty[1:]]), "error_px")


def test_a_model_keeps_its_colour(shown: str) -> None:
    colour = plots.colour(RESULTS.models, "tiny")
    assert colour != plots.colour(RESULTS.models, "still")
    for figure in (plots.clips(RESULTS, "points"), plots.curves(RESULTS, "error_px"), plots.calibration(RESULTS)):
        assert colour in figure


def test_what_is_not_there_is_not_drawn() -> None:
    nothing = Results(run=RESULTS.run, rows=[])
    assert plots.clips(nothing, "points") is None
    assert plots.curves(nothing, "delta_avg") is None
    assert plots.calibration(nothing) is None
    assert plots.differences(nothing) is None
    assert plots.distances(nothing) is None


# ---- clips that went worst


def test_the_worst_clips_are_those_with_the_lowest_score_of_each_learned_model() -> None:
    assert [(v.model, v.video) for v in worst_clips(RESULTS)] == [("tiny", HOSTILE), ("tiny", "a/one")]
    baselines = [row for row in RESULTS.rows if row.model == "still"]
    alone = replace(RESULTS, rows=baselines)
    assert [v.model for v in worst_clips(alone)] == ["still", "still"]


def outcome(off_px: float) -> Outcome:
    clip = sliding_clip()
    moved = clip.xy + np.float32([off_px, 0])
    return Outcome(moved, clip.visible, clip.xy, clip.visible, np.array([0, 0, 2]))


def pixels(jpeg: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def redness(image: np.ndarray) -> int:
    red, green, blue = image.astype(int).transpose(2, 0, 1)
    return int(((red > 180) & (green < 110) & (blue < 110)).sum())


def test_errors_are_red_lines_to_the_truth() -> None:
    grey = np.full((8, SIZE[1], SIZE[0], 3), 90, np.uint8)
    right, wrong = tiles(grey, outcome(0.0)), tiles(grey, outcome(8.0))
    assert [tile.frame for tile in right] == [0, 2, 5, 7]
    assert redness(pixels(right[-1].jpeg)) < 30  # a disc may be reddish
    length_px = 8 * sheets.WIDTH_PX / SIZE[0]
    assert redness(pixels(wrong[-1].jpeg)) > 3 * length_px  # three points


def test_a_hidden_point_has_no_line() -> None:
    grey = np.full((8, SIZE[1], SIZE[0], 3), 90, np.uint8)
    hidden = replace(outcome(8.0), visible=np.zeros((3, 8), bool))
    assert redness(pixels(tiles(grey, hidden)[-1].jpeg)) < 30


def test_a_clip_without_points_has_a_sheet_too() -> None:
    none = Outcome(
        np.zeros((0, 8, 2)), np.zeros((0, 8), bool), np.zeros((0, 8, 2)), np.zeros((0, 8), bool), np.zeros(0)
    )
    assert len(tiles(np.zeros((8, 64, 96, 3), np.uint8), none)) == sheets.FRAMES


def test_positions_that_are_not_numbers_do_not_stop_the_report() -> None:
    broken = outcome(0.0)
    broken.predicted[0] = np.nan
    broken.predicted[1] = 1e30
    assert tiles(np.zeros((8, SIZE[1], SIZE[0], 3), np.uint8), broken)


@pytest.mark.parametrize("name", ["pointloom-1", "tapvid-first"])
def test_the_report_shows_frames_of_the_worst_clips(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Outcome] = []
    monkeypatch.setattr(report, "tiles", lambda frames, shown: (drawn.append(shown), tiles(frames, shown))[1])
    protocol, store = PROTOCOLS[name], PredictionStore(tmp_path / "predictions")
    data = dataset(sliding_clip("a/one"), sliding_clip("a/two", seed=1), joint_clip(), masked_clip())
    predict(data, ["static"], protocol, store)
    found = score(data, ["static"], protocol, store)
    results = summarise(found, describe_run(data, ["static"], protocol, None), dataset="made")
    write_report(tmp_path / "report.html", results, data, protocol, store)
    text = (tmp_path / "report.html").read_text()
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', text)
    assert len(pictures) == 2 * sheets.FRAMES
    first = pixels(base64.b64decode(pictures[0]))
    assert first.shape[:2] == (round(sheets.WIDTH_PX * SIZE[1] / SIZE[0]), sheets.WIDTH_PX)  # as the video is shaped
    assert "static" in section(text, "Clips that went worst")
    for shown in drawn:  # in pixels of the video, whatever was tracked: at its query a static point is right
        at_query = np.arange(3), shown.query_frame
        np.testing.assert_allclose(shown.predicted[at_query], shown.truth[at_query], atol=1e-3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predictions", "report.html"]


def test_without_matplotlib_the_line_to_type_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pointloom\[evaluate\]'"):
        report.check_extra()
