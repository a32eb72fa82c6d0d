import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointloom.tracking.batches import ALONE, joint_batches, single_batches

SIZE = (64, 48)


def queries_in(*frames: int) -> np.ndarray:
    return np.array([[frame, 10 + n, 20] for n, frame in enumerate(frames)], np.float32)


@given(
    frames=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    most=st.integers(1, 30),
    support=st.sampled_from([0, 2]),
)
def test_every_query_is_in_one_batch_with_support_on_its_frame(frames, most, support):
    queries = queries_in(*frames)
    batches = list(joint_batches(queries, SIZE, support_grid=support, most=most))
    assert sorted(np.concatenate([b.rows for b in batches]).tolist()) == list(range(len(queries)))
    for batch in batches:
        own, company = np.split(batch.points, [len(batch.rows)])
        assert np.array_equal(own, queries[batch.rows])
        assert len(batch.points) <= max(most, 1 + support**2)
        assert len(company) == support**2 * len(np.unique(own[:, 0]))
        if support:
            assert np.array_equal(np.unique(company[:, 0]), np.unique(own[:, 0]))


def test_queries_of_near_frames_share_a_batch():
    batches = list(joint_batches(queries_in(9, 0, 8, 1), SIZE, support_grid=0, most=2))
    assert [b.rows.tolist() for b in batches] == [[1, 3], [2, 0]]


def test_batches_are_filled():
    batches = list(joint_batches(queries_in(0, 0, 0, 1, 1), SIZE, support_grid=2, most=8))
    # 3 queries and 4 support points; the next query would bring 4 more of its own frame
    assert [len(b.points) for b in batches] == [7, 6]


def test_the_support_grid_lies_over_the_whole_frame():
    (batch,) = joint_batches(queries_in(3), SIZE, support_grid=2, most=99)
    assert batch.points[1:].tolist() == [[3, 0.5, 0.5], [3, 62.5, 0.5], [3, 0.5, 46.5], [3, 62.5, 46.5]]


@pytest.mark.parametrize("seen", [SIZE, (128, 192)])
def test_a_query_alone_has_8_x_8_points_within_50_px_of_the_model_and_5_x_5_over_the_frame(seen):
    queries = queries_in(3, 5)
    batches = list(single_batches(queries, SIZE, seen))
    assert [b.rows.tolist() for b in batches] == [[0], [1]]
    for query, batch in zip(queries, batches, strict=True):
        assert len(batch.points) == ALONE == 90
        assert set(batch.points[:, 0]) == {query[0]}
        assert np.array_equal(batch.points[0], query)
        local = batch.points[1:65, 1:] - query[1:]
        np.testing.assert_allclose(local.mean(axis=0), 0, atol=1e-5)
        # by hand: the outermost points lie 25 - 50 / 64 px away; 64 px of the video are 64 or 128 px of the model
        outermost = np.array([24.21875 * 64 / seen[0], 24.21875 * 48 / seen[1]])
        np.testing.assert_allclose(local.max(axis=0), outermost, atol=1e-5)
        assert batch.points[65:, 1:].min(axis=0).tolist() == [0.5, 0.5]
        assert batch.points[65:, 1:].max(axis=0).tolist() == [62.5, 46.5]
