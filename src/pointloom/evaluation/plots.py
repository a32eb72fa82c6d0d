"""Figures of a report, as SVG text that can stand in a page: its colours for text and lines are those of the page.

Each function takes results and returns one figure, or None where there is nothing to draw. Models keep their colour and
their marker through all figures.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pointloom.evaluation.metrics import THRESHOLDS_PX
from pointloom.evaluation.results import ALL, COMPARED, HEADLINES, Curve, Kind, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# told apart by colour-blind eyes together with the markers, and read on white as well as on black
COLOURS = ("#3d85c8", "#e08214", "#2ca25f", "#c85aa5", "#d7524a", "#8a7bd1", "#1fa6a6", "#a0932c")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")

INK = "#010203"  # stands for the colour of the page's text until the figure is written
RULE_OPACITY = 0.16
WIDTH_IN = 10.4
LEGEND_COLUMNS = 6
MOST_CLIPS = 60  # with more, clips are sorted instead of named

NAMES = {
    "aj": "AJ",
    "delta_avg": "δ avg",
    "oa": "OA",
    "badja": "BADJA",
    "badja_3px": "BADJA 3 px",
    "mf": "MF",
    "ma": "MA",
    "y_obj": "Y object",
    "a_obj": "A object",
    "a_bg": "A background",
    "s_obj": "S object",
    "s_bg": "S background",
    "delta_visible": "δ visible",
    "delta_occluded": "δ hidden",
    "delta_all": "δ all",
    "survival": "survival",
    "aj_rd": "AJ-RD",
    "epe": "EPE",
    "epe_median": "EPE median",
    **{f"delta_{d}": f"δ {d}" for d in THRESHOLDS_PX},
    **{f"jaccard_{d}": f"Jaccard {d}" for d in THRESHOLDS_PX},
}
AGAINST = {
    "since_query": "frames since the query",
    "displacement": "px from where the point was at the query",
    "since_reappearance": "frames since the point came back",
}


def colour(models: Sequence[str], model: str) -> str:
    """Colour of a model."""
    return COLOURS[list(models).index(model) % len(COLOURS)]


def _marker(models: Sequence[str], model: str) -> str:
    return MARKERS[list(models).index(model) % len(MARKERS)]


def clips(results: Results, kind: Kind) -> str | None:
    """The first score of a kind for each clip: one line a clip, or curves of sorted clips if there are many."""
    metric = HEADLINES[kind][0]
    scores = [video for video in results.per_video if video.kind == kind]
    names = sorted({video.video for video in scores})
    if not names:
        return None
    if len(names) > MOST_CLIPS:
        return _sorted_clips(results, kind, metric)

    def draw(figure: Figure) -> None:
        axes = _axes(figure)
        for place, name in enumerate(names):
            values = [v.scores[metric] for v in scores if v.video == name and math.isfinite(v.scores[metric])]
            if len(values) > 1:
                axes.plot([min(values), max(values)], [place] * 2, color=INK, alpha=RULE_OPACITY, lw=4, zorder=1)
        for model in results.models:
            own = [v for v in scores if v.model == model]
            axes.plot(
                [v.scores[metric] for v in own],
                [names.index(v.video) for v in own],
                ls="",
                color=colour(results.models, model),
                marker=_marker(results.models, model),
                ms=7,
                label=model,
                zorder=2,
            )
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(-2, 102)
        axes.set_xlabel(f"{NAMES[metric]}, %")
        _legend(figure, axes)

    return _svg(draw, height=1.2 + 0.27 * len(names), name=f"{NAMES[metric]} of each clip")


def _sorted_clips(results: Results, kind: Kind, metric: str) -> str:
    def draw(figure: Figure) -> None:
        axes = _axes(figure)
        for model in results.models:
            own = [v.scores[metric] for v in results.per_video if v.model == model and v.kind == kind]
            values = np.sort([value for value in own if math.isfinite(value)])
            share = 100 * (np.arange(len(values)) + 0.5) / max(len(values), 1)
            axes.plot(share, values, color=colour(results.models, model), lw=2, label=model)
        axes.set_xlabel("clips, from the worst to the best of each model, %")
        axes.set_ylabel(f"{NAMES[metric]}, %")
        axes.set_ylim(-2, 102)
        _legend(figure, axes)

    return _svg(draw, height=3.4, name=f"{NAMES[metric]} of all clips, sorted")


def distances(results: Results) -> str | None:
    """Share of visible points within 1, 2, 4, 8, 16 px, and the same with visibility (Jaccard)."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, metric, title in (
            (left, "delta", "visible points within the distance (δ)"),
            (right, "jaccard", "the same, and visibility right (Jaccard)"),
        ):
            _style(axes)
            for model in results.models:
                rows = [results.find(model, ALL, "points", f"{metric}_{d}") for d in THRESHOLDS_PX]
                if any(row is None for row in rows):
                    continue
                found = [row for row in rows if row is not None]
                _band(
                    axes,
                    results.models,
                    model,
                    list(range(len(found))),
                    [r.value for r in found],
                    [r.low for r in found],
                    [r.high for r in found],
                )
            axes.set_xticks(range(len(THRESHOLDS_PX)), [str(d) for d in THRESHOLDS_PX])
            axes.set_title(title)
            axes.set_xlabel("px of 256 x 256")
            axes.set_ylim(-2, 102)
        left.set_ylabel("%, mean over clips")
        _legend(figure, left)

    if not any(row.kind == "points" for row in results.rows):
        return None
    return _svg(draw, height=3.8, name="Accuracy by distance")


def curves(results: Results, quantity: str) -> str | None:
    """Accuracy (`delta_avg`), median error (`error_px`) or claimed visibility (`said_seen`) against three causes."""
    titles = {
        "delta_avg": "δ avg of visible points, %",
        "error_px": "median error, px of 256 x 256",
        "said_seen": "visible points said to be visible, %",
    }

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(AGAINST), sharey=True)
        for axes, (against, title) in zip(panels, AGAINST.items(), strict=True):
            _style(axes)
            found = [curve for curve in results.curves if curve.against == against]
            classes = max((k + 1 for curve in found for k, points in enumerate(curve.points) if points), default=0)
            for curve in found:
                _curve(axes, results.models, curve, quantity, classes)
            axes.set_xticks(range(classes), [f"{end:g}" for end in found[0].lower_ends[:classes]])
            axes.set_title(title)
            if quantity != "error_px":
                axes.set_ylim(-2, 102)
            elif any(error > 0 for curve in found for error in curve.error_px):  # else there is no logarithm to show
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panels[0].set_ylabel(titles[quantity])
        _legend(figure, panels[0])

    return _svg(draw, height=3.8, name=titles[quantity]) if results.curves else None


def _curve(axes: Axes, models: Sequence[str], curve: Curve, quantity: str, classes: int) -> None:
    values = getattr(curve, quantity)[:classes]
    bounds = (curve.low[:classes], curve.high[:classes]) if quantity == "delta_avg" else (None, None)
    _band(axes, models, curve.model, list(range(classes)), values, *bounds)


def calibration(results: Results) -> str | None:
    """What was said to be so probable against how often it was so."""
    wanted = [of for of in ("visibility", "confidence") if any(c.of == of for c in results.calibration)]
    titles = {"visibility": "visibility", "confidence": "confidence, where the point is visible"}

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, of in zip(panels, wanted, strict=False):
            _style(axes)
            axes.plot([0, 100], [0, 100], color=INK, alpha=0.4, lw=1, ls=(0, (4, 3)))
            for row in (c for c in results.calibration if c.of == of):
                total = max(sum(row.points), 1)
                axes.plot(
                    100 * np.array(row.predicted),
                    100 * np.array(row.observed),
                    color=colour(results.models, row.model),
                    lw=1.5,
                    label=f"{row.model}: off by {row.error:.1f} %",
                )
                axes.scatter(
                    100 * np.array(row.predicted),
                    100 * np.array(row.observed),
                    s=[18 + 160 * math.sqrt(points / total) for points in row.points],
                    color=colour(results.models, row.model),
                    marker=_marker(results.models, row.model),
                    alpha=0.85,
                )
            axes.set_title(titles[of])
            axes.set_xlabel("said to be so probable, %")
            axes.set_xlim(-4, 104)
            axes.set_ylim(-4, 104)
            axes.legend(frameon=False, loc="upper left", fontsize=9)
        panels[0].set_ylabel("was so, %")
        for axes in panels[len(wanted) :]:
            axes.set_visible(False)

    return _svg(draw, height=4.2, name="Calibration") if wanted else None


def differences(results: Results) -> str | None:
    """How much better one model is than another on points of all clips, with intervals, for the first three scores."""
    rows = [d for d in results.differences if (d.kind, d.group) == ("points", ALL) and math.isfinite(d.value)]
    pairs = list(dict.fromkeys((row.model, row.versus) for row in rows))
    metrics = HEADLINES["points"][:COMPARED]
    if not pairs:
        return None

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(metrics), sharey=True)
        for axes, metric in zip(panels, metrics, strict=True):
            _style(axes)
            axes.axvline(0, color=INK, alpha=0.5, lw=1)
            for row in (r for r in rows if r.metric == metric):
                place = pairs.index((row.model, row.versus))
                better = row.model if row.value >= 0 else row.versus
                axes.plot([row.low, row.high], [place] * 2, color=colour(results.models, better), lw=3, alpha=0.55)
                axes.plot(
                    row.value,
                    place,
                    color=colour(results.models, better),
                    marker=_marker(results.models, better),
                    ms=7,
                )
            axes.set_title(f"{NAMES[metric]}, percentage points")
        panels[0].set_yticks(range(len(pairs)), [f"{model} - {versus}" for model, versus in pairs])
        panels[0].set_ylim(len(pairs) - 0.4, -0.6)

    return _svg(draw, height=1.0 + 0.3 * len(pairs), name="Differences between models")


# ---------------------------------------------------------------------------------------------------------------------
# Style
# ---------------------------------------------------------------------------------------------------------------------


def _band(
    axes: Axes,
    models: Sequence[str],
    model: str,
    x: list[int],
    values: list[float],
    low: list[float] | None = None,
    high: list[float] | None = None,
) -> None:
    """Draw a line with markers, and the interval around it."""
    if low is not None and high is not None:
        axes.fill_between(x, low, high, color=colour(models, model), alpha=0.13, lw=0)
    axes.plot(x, values, color=colour(models, model), marker=_marker(models, model), ms=5, lw=1.8, label=model)


def _axes(figure: Figure) -> Axes:
    axes = figure.subplots()
    _style(axes)
    return axes


def _style(axes: Axes) -> None:
    axes.grid(color=INK, alpha=RULE_OPACITY, lw=0.7)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _legend(figure: Figure, axes: Axes) -> None:
    """Name the models of some axes above the figure, where they cover nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = min(len(labels), LEGEND_COLUMNS)
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9.5)


def _svg(draw: Callable[[Figure], None], *, height: float, name: str) -> str:
    """Draw a figure and return it as an element of a page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[str, Any] = {
        "svg.fonttype": "none",  # text stays text, in the page's font
        "svg.hashsalt": name,  # the same names within the figure every time, other ones in other figures
        "text.parse_math": False,  # a clip may have any name
        "font.size": 10,
        "axes.titlesize": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
    }
    with mpl.rc_context(style):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    for unneeded in (r"<metadata\b.*?</metadata>", r"<style\b.*?</style>", "<!--.*?-->"):  # a style reaches beyond
        text = re.sub(unneeded, "", text, flags=re.DOTALL)
    # the page decides how wide it is; the view box keeps the shape
    return re.sub(r"<svg (.*?)>", rf'<svg role="img" aria-label="{name}" {_shape(text)}>', text, count=1)


def _shape(svg: str) -> str:
    found = re.search(r'viewBox="[^"]*"', svg)
    return found[0] if found else ""
