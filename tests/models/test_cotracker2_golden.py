"""CoTracker v2 against the reference: state dict, whole walks and what lies inside them, and ways to get it wrong.

The model is filled in its full size, so runs are few: where all windows have been run in one precision, the other one
has to do with the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cotracker2_cases import DOUBLE, PRECISIONS, SINGLE, RecordingCoTracker2, Tolerances, model_of, unscaled
from golden_cases import FOLDER, Case, assert_close, difference, load, watched
from pointloom.models import cotracker2, encoders, layers
from pointloom.models.base import Estimate, FrameFeatures, PointFeatures
from pointloom.models.cotracker2 import V2, V2_1, CoTracker2, CoTracker2Config
from pointloom.tracking import windows
from pointloom.tracking.official import encoded
from pointloom.tracking.windows import WindowResult, walk
from pointloom.training.losses import from_query_on

MANY = 1000
RUNS_WITH_INTERMEDIATES = [  # case, precision, how many windows at most
    ("w8", "float64", MANY),
    ("w8", "float32", 3),
    ("w16", "float64", 1),
    ("w16", "float32", MANY),
]
RUNS = [("n_equals_virtual", "float64", MANY), ("n_equals_virtual", "float32", MANY), *RUNS_WITH_INTERMEDIATES]


# -------------------------------------------------------------------------------------------------- state dict


@pytest.mark.parametrize("config", [V2, V2_1], ids=["v2", "v2.1"])
def test_state_dict_has_the_names_shapes_and_order_of_the_released_checkpoints(config: CoTracker2Config) -> None:
    expected = json.loads((FOLDER / "cotracker2" / "state.json").read_text())
    expected[0][1][1] = config.window  # of time_emb: all that differs
    with torch.device("meta"):
        model = CoTracker2(config)
    buffers = {key for key, _ in model.named_buffers()}
    found = [[k, list(v.shape), "buffer" if k in buffers else "parameter"] for k, v in model.state_dict().items()]
    assert found == expected


def test_the_released_configuration_has_as_many_parameters_as_published() -> None:
    with torch.device("meta"):
        assert CoTracker2(V2).info.parameters == 45_458_787


# -------------------------------------------------------------------------------------------------------- walks


@dataclass
class Walked:
    """A walk over the windows of a case, and what its transformer saw and said.

    tokens   before position and time are added
    updates  tokens after that, and the change
    """

    case: Case
    tolerances: Tolerances
    config: CoTracker2Config
    features: FrameFeatures
    points: PointFeatures
    windows: list[WindowResult]
    tokens: list[Tensor]
    updates: list[tuple[Tensor, Tensor]]


@cache
def walked_over(name: str, precision: str, most: int) -> Walked:
    case, tolerances = load("cotracker2", name), PRECISIONS[precision]
    model = model_of(case, tolerances.dtype)
    step, window = model.config.step, model.config.window
    plain: list[Tensor] = []
    original = model.tokens

    def kept(*arguments: Any) -> Tensor:
        plain.append(original(*arguments))
        return plain[-1]

    model.tokens = kept
    with torch.inference_mode(), watched(model.updateformer, calls=MANY) as updates:
        features = encoded(model, torch.from_numpy(case["video"])[None])
        points = model.describe(features, case.tensor("queries", tolerances.dtype)[None])
        done = list(islice(walk(model, features, points, window=window, step=step), most))
    return Walked(case, tolerances, model.config, features, points, done, plain, updates)


@pytest.fixture(scope="module", params=RUNS, ids=lambda run: f"{run[0]}-{run[1]}")
def walked(request: pytest.FixtureRequest) -> Walked:
    return walked_over(*request.param)


@pytest.fixture(scope="module", params=RUNS_WITH_INTERMEDIATES, ids=lambda run: f"{run[0]}-{run[1]}")
def looked_into(request: pytest.FixtureRequest) -> Walked:
    return walked_over(*request.param)


def test_tracks_and_visibility_of_the_whole_clip(walked: Walked) -> None:
    case, last, frames = walked.case, walked.windows[-1], len(walked.features)
    step = walked.config.step
    whole = len(walked.windows) == len(case["window_coords"])
    # of a walk that was broken off, the next window would have written the second half of the last one again
    stop = frames if whole else last.start + step
    parts = [window.result.frames(0, step) for window in walked.windows[:-1]]
    result = Estimate.join([*parts, last.result.frames(0, stop - last.start)], axis="frames")
    assert_close(result.xy[0], case["coords"][:stop], walked.tolerances.pixels, "coords")
    assert_close(result.visibility[0], case["vis"][:stop], walked.tolerances.probability, "vis")


def test_every_iteration_of_every_window(walked: Walked) -> None:
    case, tolerances = walked.case, walked.tolerances
    for k, window in enumerate(walked.windows):
        stop = min(len(walked.features) - window.start, walked.config.window)
        xy = torch.stack([estimate.xy[0] for estimate in window.estimates])  # (iterations, S, N, 2)
        assert_close(xy[:, :stop], case["window_coords"][k][:, :stop], tolerances.pixels, f"window {k}")
        assert np.isnan(case["window_coords"][k][:, stop:]).all()
        assert_close(window.result.visibility[0, :stop], case["window_vis"][k, :stop], tolerances.probability)


def test_training_counts_the_frames_that_the_reference_counts(walked: Walked) -> None:
    mask = from_query_on(walked.points.queries, len(walked.features))
    assert np.array_equal(mask[0], walked.case["mask"])


def test_features_of_frames_and_of_queries(looked_into: Walked) -> None:
    case, tolerance = looked_into.case, looked_into.tolerances.encoder
    finest = looked_into.features.padded(len(case["enc_mean_abs"])).maps[0][0]  # (T, h, w, C)
    assert_close(finest[case["enc_frames"], ::3, ::3].movedim(-1, 1), case["enc"], tolerance, "enc")
    assert_close(finest.abs().mean(dim=(1, 2, 3)), case["enc_mean_abs"], tolerance, "enc_mean_abs")
    assert_close(looked_into.points.support[0][0, :, 0, 0], case["track_feat"], tolerance, "track_feat")


def test_what_the_transformer_sees_and_says(looked_into: Walked) -> None:
    case, t = looked_into.case, looked_into.tolerances
    first = 2 + 4 * cotracker2.DISPLACEMENT_FREQUENCIES
    correlations = looked_into.tokens[0][0, ..., first : first + case["corr_w0_i0"].shape[-1]]
    assert_close(correlations, case["corr_w0_i0"], t.correlation, "corr_w0_i0")
    tokens, change = looked_into.updates[0]
    assert_close(tokens[0], case["tin_w0_i0"], t.tokens, "tin_w0_i0")
    assert_close(change[0], case["tout_w0_i0"], t.change, "tout_w0_i0")
    if "tin_w0_i1" in case:
        assert_close(looked_into.updates[1][0][0, :2], case["tin_w0_i1"], t.later_tokens, "tin_w0_i1")
    if len(looked_into.windows) > 2:
        tokens, change = looked_into.updates[2 * looked_into.config.iterations]
        assert_close(tokens[0, 2:], case["tin_w2_i0"], t.later_tokens, "tin_w2_i0")
        assert_close(change[0], case["tout_w2_i0"], t.later_change, "tout_w2_i0")


# ------------------------------------------------------------------------------------------------------ variants

Alter = Callable[[pytest.MonkeyPatch, RecordingCoTracker2], None]
"""One place of the model altered, as an implementer might have understood it."""


@dataclass
class Smallest:
    """The smallest case, which has as many points as virtual tracks: what alterations do not touch is computed once."""

    case: Case
    model: RecordingCoTracker2
    features: FrameFeatures
    first: WindowResult

    def excess(self, features: FrameFeatures, start: int, previous: Estimate | None, tolerances: Tolerances) -> float:
        """How many tolerances two iterations of one window (in float64) lie away from the reference."""
        model = self.model
        window, step = model.config.window, model.config.step
        seen = features.between(start, min(start + window, features.stop))
        points = model.describe(features, self.case.tensor("queries", torch.float64)[None])
        prior = windows.carried(previous, points, start, window, step)
        done = windows.run_window(model, seen.padded(window), points, prior, iterations=2)
        xy = torch.stack([estimate.xy[0, : len(seen)] for estimate in done.estimates])
        return difference(xy, self.case["window_coords"][start // step][:2, : len(seen)]) / tolerances.pixels

    def excess_when(
        self, alter: Alter, tolerances: Tolerances, *, encoder: bool = False, second: bool = False
    ) -> float:
        """The same with the model altered: in its encoder, in its first window, or in its second."""
        with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
            alter(patch, self.model)
            features = encoded(self.model, torch.from_numpy(self.case["video"])[None]) if encoder else self.features
            start, previous = (self.model.config.step, self.first.result) if second else (0, None)
            return self.excess(features, start, previous, tolerances)


@pytest.fixture(scope="module")
def smallest() -> Iterator[Smallest]:
    case = load("cotracker2", "n_equals_virtual")
    walked = walked_over("n_equals_virtual", "float64", MANY)
    yield Smallest(case, model_of(case, torch.float64), walked.features, walked.windows[0])
    unscaled.cache_clear()
    walked_over.cache_clear()


def test_unaltered_the_model_lies_inside_the_strictest_tolerance(smallest: Smallest) -> None:
    with torch.inference_mode():
        assert smallest.excess(smallest.features, 0, None, DOUBLE) < 1
        assert smallest.excess(smallest.features, smallest.model.config.step, smallest.first.result, DOUBLE) < 1


def interpolated_without_aligned_corners(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
    original = F.interpolate
    patch.setattr(F, "interpolate", lambda x, **options: original(x, **(options | {"align_corners": False})))


def no_relu_before_the_sum(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
    def altered(block: encoders.ResidualBlock, x: Tensor) -> Tensor:
        y = F.relu(encoders.instance_norm(block.conv1(x)))
        y = encoders.instance_norm(block.conv2(y))
        shortcut = encoders.instance_norm(block.downsample(x)) if hasattr(block, "downsample") else x
        return F.relu(shortcut + y)

    patch.setattr(encoders.ResidualBlock, "forward", altered)


def features_of_unit_length(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
    original = model.fnet.forward
    patch.setattr(model.fnet, "forward", lambda x: [F.normalize(original(x)[0], dim=1)])


def correlation_altered(change: Callable[[Tensor], Tensor]) -> Alter:
    def alter(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
        original = cotracker2.correlation
        patch.setattr(cotracker2, "correlation", lambda *arguments: change(original(*arguments)))

    return alter


def displacement_altered(change: Callable[[Tensor], Tensor]) -> Alter:
    def alter(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
        original = cotracker2.displacement_embedding
        patch.setattr(cotracker2, "displacement_embedding", lambda d: change(original(d)))

    return alter


def frequencies_half_as_far_apart(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
    patch.setattr(cotracker2, "FREQUENCY_STEP", cotracker2.FREQUENCY_STEP / 2)


def place_with_y_first(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
    original = model._place
    patch.setattr(model, "_place", lambda cells: original(cells).roll(model.config.token_width // 2, dims=-1))


def gelu_of_the_transformer(approximate: str) -> Alter:
    def alter(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
        for module in model.updateformer.modules():
            if isinstance(module, layers.Mlp):
                patch.setattr(module, "approximate", approximate)

    return alter


def tanh_gelu_in_the_feature_update(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
    patch.setattr(model.track_feat_updater[1], "approximate", "tanh")


def smaller_epsilon_in_context_norms(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
    for name, module in model.updateformer.named_modules():
        if name.endswith("norm_context"):
            patch.setattr(module, "eps", 1e-6)


def larger_epsilon_in_layer_norms(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
    patch.setattr(layers, "plain_norm", lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-5))


def points_look_at_virtual_tracks_of_before(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
    former = model.updateformer

    def altered(x: Tensor, points: int, layer: int, looked_at: Any, looking: Any) -> Tensor:
        B = len(x)
        frames = x.transpose(1, 2).flatten(0, 1)
        point, virtual = frames[:, :points], frames[:, points:]
        looked_at, looking = (None if mask is None else mask.flatten(0, 1) for mask in (looked_at, looking))
        new = former.space_virtual2point_blocks[layer](virtual, point, looked_at)
        new = former.space_virtual_blocks[layer](new)
        point = former.space_point2virtual_blocks[layer](point, virtual, looking)
        return torch.cat([point, new], dim=1).unflatten(0, (B, -1)).transpose(1, 2)

    patch.setattr(former, "_across_tracks", altered)


def virtual_tracks_not_attending_to_each_other(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
    for block in model.updateformer.space_virtual_blocks:
        patch.setattr(block, "forward", lambda x: x)


def masks_altered(change: Callable[[Any, Any], tuple[Any, Any]]) -> Alter:
    def alter(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
        original = model._masks

        def altered(*arguments: Any, **options: Any) -> tuple[Any, Any]:
            return change(*original(*arguments, **options))

        patch.setattr(model, "_masks", altered)

    return alter


def a_point_without_context_gets_zeros(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
    for module in model.updateformer.modules():
        if isinstance(module, layers.Attention):
            patch.setattr(module, "lonely_mean", False)


def unseen_points_have_logit_zero(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
    patch.setattr(cotracker2, "LOGIT_OF_THE_UNSEEN", 0.0)


def features_kept_of_points_that_are_not_reached(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
    original, reached = model._masks, []

    def iterate(features: Any, points: Any, prior: Any, **options: Any) -> Any:
        reached[:] = [points.reached]
        return RecordingCoTracker2.iterate(model, features, replace(points, reached=None), prior, **options)

    patch.setattr(model, "iterate", iterate)
    patch.setattr(model, "_masks", lambda _, attended, frames: original(reached[0], attended, frames=frames))


IN_THE_ENCODER: dict[str, Alter] = {
    "resize in the encoder without aligned corners": interpolated_without_aligned_corners,
    "no ReLU on the branch before the sum": no_relu_before_the_sum,
    "features of unit length": features_of_unit_length,
}
WITHIN_A_WINDOW: dict[str, Alter] = {
    "patch with the y offset slow": correlation_altered(
        lambda c: c.unflatten(-1, (7, 7)).transpose(-1, -2).flatten(-2)
    ),
    "correlation not divided by sqrt(C)": correlation_altered(lambda c: c * 128**0.5),
    "frequencies half as far apart": frequencies_half_as_far_apart,
    "sines before cosines": displacement_altered(
        lambda e: torch.cat([e[..., :2], e[..., 2:].unflatten(-1, (2, 32, 2)).transpose(-1, -2).flatten(-3)], -1)
    ),
    "displacements of y first": displacement_altered(
        lambda e: torch.cat([e[..., :2], e[..., 2:].unflatten(-1, (2, 64)).flip(-2).flatten(-2)], -1)
    ),
    "place with y first": place_with_y_first,
    "unseen points have logit zero": unseen_points_have_logit_zero,
    "points look at virtual tracks of before": points_look_at_virtual_tracks_of_before,
    "no masks": masks_altered(lambda looked_at, looking: (None, None)),
    "points that are not reached look": masks_altered(lambda looked_at, looking: (looked_at, None)),
    "a point without context gets zeros": a_point_without_context_gets_zeros,
    "with equal lengths points are hidden after all": masks_altered(
        lambda looked_at, looking: (None if looking is None else looking.transpose(2, 3), looking)
    ),
    "features kept of points that are not reached": features_kept_of_points_that_are_not_reached,
    "no virtual track attends to another": virtual_tracks_not_attending_to_each_other,
}


@pytest.mark.parametrize("alter", IN_THE_ENCODER.values(), ids=IN_THE_ENCODER)
def test_an_altered_encoder_is_noticed_even_in_single_precision(smallest: Smallest, alter: Alter) -> None:
    assert smallest.excess_when(alter, SINGLE, encoder=True) > 1


@pytest.mark.parametrize("alter", WITHIN_A_WINDOW.values(), ids=WITHIN_A_WINDOW)
def test_an_altered_window_is_noticed_even_in_single_precision(smallest: Smallest, alter: Alter) -> None:
    assert smallest.excess_when(alter, SINGLE) > 1


@pytest.mark.parametrize(
    "alter",
    [
        gelu_of_the_transformer("none"),
        tanh_gelu_in_the_feature_update,
        smaller_epsilon_in_context_norms,
        larger_epsilon_in_layer_norms,
    ],
    ids=["exact GELU in the transformer", "tanh GELU in the feature update", "context norm", "layer norm"],
)
def test_a_small_alteration_is_noticed_in_double_precision(smallest: Smallest, alter: Alter) -> None:
    assert smallest.excess_when(alter, DOUBLE) > 10


# -------------------------------------------------------------------------------------------- from window to window


def frames_of_the_overlap_asked_for(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
    original = model._asked_for
    patch.setattr(model, "_asked_for", lambda features, points: original(replace(features, start=0), points))


def carried_altered(change: Callable[[Estimate], Estimate]) -> Alter:
    def alter(patch: pytest.MonkeyPatch, model: RecordingCoTracker2) -> None:
        original = windows.carried
        patch.setattr(windows, "carried", lambda *arguments: change(original(*arguments)))

    return alter


BETWEEN_WINDOWS: dict[str, Alter] = {
    "frames of the overlap asked for again": frames_of_the_overlap_asked_for,
    "probabilities handed over": carried_altered(
        lambda e: Estimate(e.xy, e.visibility_logit.sigmoid(), e.confidence_logit)
    ),
    "all points unseen again": carried_altered(
        lambda e: Estimate(e.xy, e.visibility_logit, torch.zeros_like(e.confidence_logit))
    ),
    "positions not handed over": carried_altered(
        lambda e: Estimate(e.xy[:, :1].expand_as(e.xy), e.visibility_logit, e.confidence_logit)
    ),
}


@pytest.mark.parametrize("alter", BETWEEN_WINDOWS.values(), ids=BETWEEN_WINDOWS)
def test_an_altered_walk_is_noticed_in_double_precision(smallest: Smallest, alter: Alter) -> None:
    assert smallest.excess_when(alter, DOUBLE, second=True) > 1000
