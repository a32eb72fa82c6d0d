"""An evaluation as one page of HTML that needs nothing else: no network, no script, no file beside it.

Tables come first, then comparisons and figures, then the clips that went worst, then what others published, last by
what it was made. Every name from outside is escaped.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from pointloom.evaluation import plots
from pointloom.evaluation.published import PUBLISHED, Published
from pointloom.evaluation.results import ALL, GROUP_NOTES, HEADLINES, Kind, Results, Row, VideoScores
from pointloom.evaluation.sheets import Tile

WITH_INTERVAL = 3  # of the first columns of a table
UNRANKED = ("s_obj", "s_bg")  # shares that are neither good nor bad

KINDS: dict[Kind, tuple[str, str]] = {
    "points": (
        "Scores",
        "Percent, mean over clips, with the 95 % interval by bootstrap over clips. AJ asks for position and visibility "
        "at once, δ for positions of visible points within 1 to 16 px of 256 x 256, OA for visibility.",
    ),
    "trajectories": (
        "Scores",
        "Percent, mean over clips. δ of visible and of hidden points within 1 to 16 px of 256 x 256; survival: how "
        "long a point is followed before it is 50 px off.",
    ),
    "joints": (
        "Joints of animals",
        "Apart from the scores above and in none of their means: joints that people clicked, good to some 4 px. BADJA: "
        "within 0.2 √area of the animal, all joints from the first annotated frame on. Visibility is not scored.",
    ),
    "masks": (
        "Agreement with masks",
        "Apart from the scores above and in none of their means: points of an object should stay on its mask, others "
        "beside it. Does not see sliding within the object. MF joins both, as an F measure does.",
    ),
}


def page(
    results: Results, worst: Sequence[VideoScores] = (), sheets: dict[tuple[str, str], list[Tile]] | None = None
) -> str:
    """Return the page as text."""
    dataset = results.run["dataset"]["name"]
    title = f"Point tracking on {dataset}: {results.run['dataset']['folder']}"
    style = files("pointloom.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    clips = len({(video.video, video.kind) for video in results.per_video})
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{clips} clips · protocol <code>{escape(results.run['protocol']['name'])}</code> · "
        f"{escape(results.run['date'][:10])} · Pointloom {escape(results.run['versions']['pointloom'])}</p>",
        _lead(results),
        *(_scores(results, kind) for kind in HEADLINES),
        _missing(results),
        _comparison(results),
        _figures(results),
        _worst(results, worst, sheets or {}),
        _published(results, dataset),
        _made_by(results),
        "<footer>Higher is better except for errors in px. How each number is defined, and what it misses: "
        "<code>docs/evaluation.md</code> of Pointloom.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _lead(results: Results) -> str:
    """Say in a sentence who is best."""
    kind: Kind = "points" if any(row.kind == "points" for row in results.rows) else "trajectories"
    metric = HEADLINES[kind][0]
    rows = [row for model in results.models if (row := results.find(model, ALL, kind, metric))]
    known = sorted((row for row in rows if math.isfinite(row.value)), key=lambda row: -row.value)
    if not known:
        return ""
    best = known[0]
    text = (
        f"Best {plots.NAMES[metric]} over {best.videos} clips: {_model(results, best.model)}, "
        f"<b>{best.value:.1f} %</b>{_interval(best)}"
    )
    if len(known) > 1:
        second = known[1]
        text += f"; next {_model(results, second.model)}, {second.value:.1f} %"
    return f'<p class="lead">{text}.</p>'


def _scores(results: Results, kind: Kind) -> str:
    groups = results.groups(kind)
    if not groups:
        return ""
    title, note = KINDS[kind]
    metrics = HEADLINES[kind]
    head = "".join(f"<th>{escape(plots.NAMES[metric])}</th>" for metric in metrics)
    bodies = "".join(_group(results, kind, group, metrics) for group in groups)
    return (
        f'<h2>{title}</h2><p>{escape(note)}</p><div class="scroll"><table><thead><tr><th class="text">group</th>'
        f'<th class="model">model</th>{head}</tr></thead>{bodies}</table></div>'
    )


def _group(results: Results, kind: Kind, group: str, metrics: Sequence[str]) -> str:
    models = [model for model in results.models if results.find(model, group, kind, metrics[0])]
    columns = {metric: [results.find(model, group, kind, metric) for model in models] for metric in metrics}
    best = {metric: max((_shown(row) for row in rows), default=math.nan) for metric, rows in columns.items()}
    note = GROUP_NOTES.get(group)
    first = columns[metrics[0]][0]
    videos = f"<small>{first.videos} clip{'s' * (first.videos != 1)}</small>" if first else ""
    label = escape(group) + videos + (f'<span class="tag">{escape(note)}</span>' if note else "")
    lines = []
    for place, model in enumerate(models):
        name = f'<th scope="rowgroup" rowspan="{len(models)}">{label}</th>' if place == 0 else ""
        cells = "".join(
            _cell(
                columns[metric][place],
                best=best[metric] if len(models) > 1 and metric not in UNRANKED else None,
                full=column < WITH_INTERVAL,
            )
            for column, metric in enumerate(metrics)
        )
        lines.append(f'<tr>{name}<td class="model">{_model(results, model)}</td>{cells}</tr>')
    return f"<tbody>{''.join(lines)}</tbody>"


def _cell(row: Row | None, *, best: float | None, full: bool) -> str:
    """One number; with its interval and a bar behind it where there is room."""
    if row is None or not math.isfinite(row.value):
        return "<td>-</td>"
    number = f"{row.value:.1f}{'*' if row.missing else ''}"
    text = f"<b>{number}</b>" if best is not None and _shown(row) == best else number
    if not full:
        return f"<td>{text}</td>"
    share = min(max(row.value, 0), 100)
    return f'<td class="bar" style="--share:{share:.1f}%">{text}{_interval(row)}</td>'


def _shown(row: Row | None) -> float:
    """Value as it is printed, so that equals in the table are equally good; -1 for none."""
    return round(row.value, 1) if row is not None and math.isfinite(row.value) else -1.0


def _interval(row: Row) -> str:
    return f" <small>[{row.low:.1f}, {row.high:.1f}]</small>" if math.isfinite(row.low) else ""


def _model(results: Results, model: str) -> str:
    return f'<span class="dot" style="background:{plots.colour(results.models, model)}"></span>{escape(model)}'


def _missing(results: Results) -> str:
    """Name clips in which a headline score cannot be computed."""
    found: dict[str, set[str]] = {}
    for row in results.rows:
        if row.metric in HEADLINES[row.kind]:
            for video in row.missing:
                found.setdefault(video, set()).add(plots.NAMES[row.metric])
    if not found:
        return ""
    named = "; ".join(f"{escape(video)} ({escape(', '.join(sorted(names)))})" for video, names in sorted(found.items()))
    return f"<p>* Without a value, because nothing in them can be counted, and not in the mean: {named}.</p>"


def _comparison(results: Results) -> str:
    figure = plots.differences(results)
    if figure is None:
        return ""
    return (
        "<h2>Compared on the same clips</h2><p>Mean difference between two models over all clips with points, and its "
        "95 % interval. An interval that does not touch zero is a difference that other clips of this kind would very "
        "likely show as well. The colour is that of the better one.</p>" + _plot(figure)
    )


def _figures(results: Results) -> str:
    captions: list[tuple[str | None, str]] = [
        (plots.clips(results, "points"), "Each clip by itself: where models differ, and which clips are hard for all."),
        (
            plots.distances(results),
            "Precision: the left end tells how exact a tracker is, the right end how often it has not lost the point.",
        ),
        (
            plots.curves(results, "delta_avg"),
            "Where accuracy goes: with time, with motion, and after a point was hidden. Each class reaches from the "
            "number below it to the next one. Bands are 95 % intervals.",
        ),
        (plots.curves(results, "error_px"), "The same as an error: the median over points, and over clips."),
        (
            plots.curves(results, "said_seen"),
            "The same for visibility: of points that can be seen, how many a tracker said it sees.",
        ),
        (
            plots.calibration(results),
            "Whether probabilities mean what they say: on the dashed line they do; below it a tracker is too sure of "
            "itself. Larger marks stand for more points. Trackers that say yes or no have two marks.",
        ),
        (plots.clips(results, "trajectories"), "Each clip by itself."),
        (plots.clips(results, "joints"), "Joints of animals, each clip by itself."),
        (plots.clips(results, "masks"), "Agreement with masks, each clip by itself."),
    ]
    drawn = "".join(_plot(figure, caption) for figure, caption in captions if figure is not None)
    return f"<h2>Where errors come from</h2>{drawn}" if drawn else ""


def _plot(figure: str, caption: str = "") -> str:
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="plot">{text}{figure}</figure>'


def _worst(results: Results, worst: Sequence[VideoScores], sheets: dict[tuple[str, str], list[Tile]]) -> str:
    parts = [_sheet(results, video, sheets[video.model, video.video]) for video in worst if _key(video) in sheets]
    if not parts:
        return ""
    return (
        "<h2>Clips that went worst</h2><p>Discs are points that the tracker says it sees, rings points that it says "
        "are hidden. A red line leads to a red ring where the point really is, if it can be seen there.</p>"
        + "".join(parts)
    )


def _key(video: VideoScores) -> tuple[str, str]:
    return video.model, video.video


def _sheet(results: Results, video: VideoScores, frames: Sequence[Tile]) -> str:
    shown = [metric for metric in HEADLINES[video.kind][:WITH_INTERVAL] if metric in video.scores]
    scores = " · ".join(f"{escape(plots.NAMES[metric])} {video.scores[metric]:.1f}" for metric in shown)
    pictures = "".join(
        f'<div><img alt="{escape(video.video)}, frame {tile.frame}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(tile.jpeg).decode()}">frame {tile.frame}</div>'
        for tile in frames
    )
    return (
        f"<figure><figcaption>{_model(results, video.model)} on <b>{escape(video.video)}</b> · {scores}</figcaption>"
        f'<div class="sheet">{pictures}</div></figure>'
    )


# ---------------------------------------------------------------------------------------------------------------------
# What others published, and by what this was made
# ---------------------------------------------------------------------------------------------------------------------


def _published(results: Results, dataset: str) -> str:
    near = {dataset}
    if any(row.kind == "joints" for row in results.rows):
        near.add("badja")
    shown = [entry for entry in PUBLISHED if entry.dataset in near]
    others = [entry for entry in PUBLISHED if entry.dataset not in near]
    named = "".join(_reported(name, shown) for name in _datasets(shown))
    rest = "".join(_reported(name, others) for name in _datasets(others))
    return (
        "<h2>Reported by others</h2><p>As printed in the sources, not measured here, and never in the tables above. "
        "They compare with numbers that were measured on the same data by the same protocol, and with nothing else.</p>"
        f"{named}<details><summary>On other data</summary>{rest}</details>"
    )


def _datasets(entries: Iterable[Published]) -> list[str]:
    return list(dict.fromkeys(entry.dataset for entry in entries))


def _reported(dataset: str, entries: Sequence[Published]) -> str:
    """One data set: a line for each model, setting and source, a column for each number."""
    own = [entry for entry in entries if entry.dataset == dataset]
    by_clip = dataset == "badja"  # clips side by side; elsewhere measures are
    lines: dict[tuple[str, str, str], dict[str, float]] = {}
    for entry in own:
        measure, setting = plots.NAMES[entry.metric], entry.setting or "-"
        line, column = (measure, setting) if by_clip else (setting, measure)
        lines.setdefault((entry.model, line, entry.source), {})[column] = entry.value
    columns = list(dict.fromkeys(column for values in lines.values() for column in values))
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f'<tr><td class="model">{escape(model)}</td><td class="text">{escape(setting)}</td>'
        + "".join(f"<td>{_printed(values.get(column))}</td>" for column in columns)
        + f'<td class="text source">{escape(source)}</td></tr>'
        for (model, setting, source), values in lines.items()
    )
    return (
        f'<h3>{escape(dataset)} <span class="tag">reported</span></h3><div class="scroll"><table><thead><tr>'
        f'<th class="model">model</th><th class="text">{"measure" if by_clip else "queries"}</th>{head}'
        f'<th class="text">source</th></tr></thead><tbody>{body}</tbody></table></div>'
    )


def _printed(value: float | None) -> str:
    """A number with the digits that its source gives, one at least."""
    if value is None:
        return "-"
    return f"{value:.1f}" if round(value, 1) == value else f"{value:g}"


def _made_by(results: Results) -> str:
    run = results.run
    weights = {row.model: row.weights for row in results.rows}
    facts: dict[str, Any] = {
        **{f"model {model}": f"weights {weights[model]}" if weights[model] else "no weights" for model in weights},
        **{f"protocol: {name}": value for name, value in run["protocol"].items()},
        **run["versions"],
        **run["machine"],
        **{f"bootstrap: {name}": value for name, value in run["bootstrap"].items()},
    }
    lines = "".join(
        f'<tr><td class="text">{escape(name.replace("_", " "))}</td><td class="text">{escape(_fact(value))}</td></tr>'
        for name, value in facts.items()
    )
    return (
        f"<h2>Made by</h2><pre><code>{escape(run['command'])}</code></pre>"
        f"<details><summary>Models, protocol, versions, machine</summary>"
        f'<div class="scroll"><table><tbody>{lines}</tbody></table></div></details>'
    )


def _fact(value: Any) -> str:
    if value is None:
        return "as it is"
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    if isinstance(value, list):
        return " x ".join(map(str, value))
    return str(value)
