"""Random views: what they may and may not do to an image."""

from __future__ import annotations

import numpy as np
import pytest

from training.images import Augmentation, cut_mix

STILL = Augmentation(least_area=1, most_aspect=1, degrees=0, mirror=False, colour=0)


@pytest.fixture
def ramp() -> np.ndarray:
    """A picture whose red tells the column and whose green tells the row."""
    rows, columns = np.mgrid[:64, :96]
    return np.stack([columns * 2, rows * 3, np.full_like(rows, 80)], axis=2).astype(np.uint8)


def test_nothing_allowed_is_the_image_itself(ramp):
    np.testing.assert_array_equal(STILL(ramp, 64, 96, np.random.default_rng(0)), ramp)


def test_smaller_views_show_the_whole_image(ramp):
    view = STILL(ramp, 32, 48, np.random.default_rng(0)).astype(float)
    expected = ramp.reshape(32, 2, 48, 2, 3).mean((1, 3))
    np.testing.assert_allclose(view, expected, atol=1)


def test_a_mirrored_view_is_the_mirrored_image(ramp):
    turning = Augmentation(least_area=1, most_aspect=1, degrees=0, mirror=True, colour=0)
    views = [turning(ramp, 64, 96, np.random.default_rng(seed)) for seed in range(8)]
    same = [np.array_equal(view, ramp) for view in views]
    mirrored = [np.array_equal(view, ramp[:, ::-1]) for view in views]
    assert all(one != other for one, other in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


def test_cut_views_keep_at_least_the_area_and_stay_inside(ramp):
    cutting = Augmentation(least_area=0.5, most_aspect=4 / 3, degrees=0, mirror=False, colour=0)
    for seed in range(50):
        view = cutting(ramp, 64, 96, np.random.default_rng(seed)).astype(float)
        wide = (view[:, -1, 0] - view[:, 0, 0]).mean() / (2 * 95)
        high = (view[-1, :, 1] - view[0, :, 1]).mean() / (3 * 63)
        assert 0.45 < wide * high < 1.05
        assert (np.diff(view[..., 0], axis=1) >= -1).all()  # no mirrored border: the cut lies inside


def test_colours_change_within_bounds():
    grey = np.full((8, 8, 3), 100, np.uint8)
    tinting = Augmentation(least_area=1, most_aspect=1, degrees=0, mirror=False, colour=0.2)
    values = [tinting(grey, 8, 8, np.random.default_rng(seed)) for seed in range(50)]
    assert max(int(np.ptp(view)) for view in values) <= 1  # grey stays grey, but for rounding
    levels = [int(view[0, 0, 0]) for view in values]
    assert min(levels) >= 79
    assert max(levels) <= 121
    assert max(levels) - min(levels) > 20


def test_the_same_seed_is_the_same_view(ramp):
    one, other, third = (Augmentation()(ramp, 32, 32, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, other)
    assert (one != third).any()


def test_a_mixed_view_is_worth_its_areas():
    """Views of one colour each: the share of each colour in a mixed view is the share of its class in the target."""
    labels = np.array([0, 1, 2, 1])
    views = np.repeat(np.array([10, 20, 30, 20], np.uint8), 20 * 30 * 3).reshape(4, 20, 30, 3)
    changed = 0
    for seed in range(40):
        mixed, targets = cut_mix(views, labels, 3, np.random.default_rng(seed))
        shares = [[(view[..., 0] == colour).mean() for colour in (10, 20, 30)] for view in mixed]
        np.testing.assert_allclose(targets, shares, atol=1e-6)
        assert targets.dtype == np.float32
        changed += bool((mixed != views).any())
    assert 10 <= changed <= 30  # half the batches
    assert views[0].max() == 10  # the batch that was given stays as it was
