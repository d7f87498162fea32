"""LiDAR is that of a dense computation to within its interval, or is refused, and varies over groups as it says."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.linalg import eigh
from scipy.special import stdtrit
from scipy.stats import binom

import rankme_stream as rs
from rankme_stream.groups.partition import partition_of
from rankme_stream.results.table import table
from rankme_stream.spectra.jackknife import standard_error
from rankme_stream.spectra.metrics import rankme

DELTA, EPSILON, U = 1e-4, 1e-7, 2.0**-53


def dense_lidar(rows: np.ndarray, labels: np.ndarray) -> float:
    """Two passes over each group in float64, and one eigenproblem."""
    rows = rows.astype(np.float64)
    groups = [rows[labels == label] for label in np.unique(labels)]
    groups = [group for group in groups if len(group) > 1]
    means = np.array([group.mean(axis=0) for group in groups])
    about = np.concatenate([group - group.mean(axis=0) for group in groups])
    within = about.T @ about / len(about) + DELTA * np.eye(rows.shape[1])
    centered = means - means.mean(axis=0)
    found = np.maximum(eigh(centered.T @ centered / len(means), within, eigvals_only=True), 0.0)
    shares = found / found.sum() + EPSILON
    return math.exp(-float((shares * np.log(shares)).sum()))


def planted(sizes: np.ndarray, width: int, *, mean=0.0, spread=0.3, seed=0, dtype=np.float32):
    """Groups with means that fall off along the features, and rows about them."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    means = generator.standard_normal((len(sizes), width)) * np.linspace(2.0, 0.1, width)
    rows = means[labels] + spread * generator.standard_normal((len(labels), width)) + mean
    return rows.astype(dtype), labels


def shuffled(rows: np.ndarray, labels: np.ndarray):
    order = np.random.default_rng(9).permutation(len(labels))
    return rows[order], labels[order]


def assert_holds(found, rows: np.ndarray, labels: np.ndarray) -> None:
    dense = dense_lidar(rows, labels)
    slack = 1e3 * U * dense  # of the dense computation itself
    assert found.lower - slack <= dense <= found.upper + slack
    assert found.half_width <= 1e-4 * dense


SIZES = {
    "a thousand pairs": np.full(1000, 2),
    "views of images": np.full(300, 50),
    "few large groups": np.full(12, 3000),
    "uneven": (np.random.default_rng(3).random(400) ** 3 * 300).astype(int) + 1,
    "fewer groups than features": np.full(9, 40),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("is_shuffled", [False, True])
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_lidar_is_that_of_a_dense_computation_to_its_stated_error(sizes, is_shuffled, mean):
    rows, labels = planted(sizes, 24, mean=mean)
    if is_shuffled:
        rows, labels = shuffled(rows, labels)
    found = rs.measure(rows, groups=labels)["lidar"]
    assert_holds(found, rows, labels)
    assert found.covers == ("arithmetic",)
    kept = sizes[sizes > 1]
    assert found.details["rows_per_group"] == [kept.min(), kept.max()]
    assert (found.details["groups"], found.details["groups_left_out"]) == (len(kept), len(sizes) - len(kept))
    assert (found.details["rows"], found.details["delta"]) == (kept.sum(), DELTA)


def test_a_flat_spectrum_of_means_gives_its_number():
    """Groups at the corners of a cross differ in D directions alike; their rows about them are alike as well."""
    width = 16
    corners = np.concatenate([np.eye(width), -np.eye(width)])
    about = np.concatenate([np.eye(width), -np.eye(width)]) * 0.5
    rows = (corners[:, None, :] + about[None, :, :]).reshape(-1, width)
    found = rs.measure(rows, groups=np.repeat(np.arange(2 * width), 2 * width))["lidar"]
    share = 1.0 / width + EPSILON
    assert found.lower <= math.exp(-width * share * math.log(share)) <= found.upper
    assert found.half_width < 1e-9


@pytest.mark.parametrize("n_rows", [4, 200])
def test_a_mean_that_drowns_the_spread_is_refused(n_rows):
    """Rows kept, and a Gram: both say that they do not know."""
    rows, labels = planted(np.full(40, n_rows), 24, mean=3e12, spread=1e-3, dtype=np.float64)
    found = rs.measure(rows, groups=labels)["lidar"]
    assert found.value is None
    assert "is known to within" in found.reason


def test_lidar_of_collapsed_groups_rests_on_delta_or_is_refused():
    rows, labels = planted(np.full(200, 20), 24, spread=0.0)
    found = rs.measure(rows, groups=labels)["lidar"]  # rows are their means: within is delta
    assert_holds(found, rows, labels)
    refused = rs.measure(rows.astype(np.float64) * 2.0**44, groups=labels)["lidar"]
    assert refused.value is None


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (np.zeros(60, int), "two groups of two rows"),
        (np.arange(60), "two groups of two rows"),
        (np.arange(60) % 2, "means of all groups are the same"),
    ],
)
def test_lidar_that_cannot_be_stated_has_a_reason(labels, text):
    rows = np.repeat(np.random.default_rng(0).standard_normal((30, 4)), 2, axis=0)
    found = rs.measure(rows, groups=labels)["lidar"]
    assert found.value is None
    assert text in found.reason


@pytest.mark.parametrize("sizes", [np.full(100, 10), SIZES["uneven"]], ids=["even", "uneven"])
def test_the_interval_over_groups_is_the_jackknife_by_brute_force(sizes):
    rows, labels = shuffled(*planted(sizes, 12))
    found = rs.measure(rows, groups=labels, confidence=0.9)["lidar"]
    table = partition_of(labels, len(labels), (0, len(labels)))
    batch_of = {int(name): int(batch) for name, batch in zip(table.names, table.batches, strict=True)}
    batches = np.array([batch_of[label] for label in labels.tolist()])
    kept = [label for label in np.unique(labels) if (labels == label).sum() > 1]
    counts = np.bincount([batch_of[label] for label in kept], minlength=16)
    without = [dense_lidar(rows[batches != batch], labels[batches != batch]) for batch in range(16)]
    whole = dense_lidar(rows, labels)
    spread = standard_error(whole, without, (counts / counts.sum()).tolist())
    if len(set(counts)) == 1:  # the formula of equal parts
        mean = sum(without) / 16
        assert math.isclose(spread, math.sqrt(15 / 16 * sum((one - mean) ** 2 for one in without)), rel_tol=1e-9)
    assert math.isclose(found.details["standard_error"], spread, rel_tol=1e-6)
    assert found.details["batches"] == 16
    half = stdtrit(15, 0.95) * spread
    assert np.allclose(found.details["over_groups"], [whole - half, whole + half], rtol=1e-6)
    assert found.details["over_groups_confidence"] == 0.9


def test_seven_groups_have_no_interval_over_groups():
    rows, labels = planted(np.full(7, 30), 5)
    details = rs.measure(rows, groups=labels)["lidar"].details
    assert details["over_groups"] is None
    assert "too few" in details["over_groups_reason"]


def test_the_interval_over_groups_holds_as_often_as_it_says():
    """For the mean of LiDAR over draws of as many groups, in 80 draws."""
    draws = 80
    found = []
    for seed in range(draws):
        rows, labels = planted(np.full(96, 4), 6, seed=seed)
        found.append(rs.measure(rows, groups=labels, workers=1)["lidar"])
    mean = sum(one.value for one in found) / draws
    held = sum(one.details["over_groups"][0] <= mean <= one.details["over_groups"][1] for one in found)
    assert held >= binom.ppf(1e-4, draws, 0.95)
    typical = np.median([one.details["standard_error"] for one in found])
    assert 0.7 < typical / np.std([one.value for one in found]) < 1.5


def test_the_bits_of_lidar_depend_on_neither_workers_nor_a_state_between(tmp_path):
    rows, labels = shuffled(*planted(np.full(200, 800), 6))
    np.save(tmp_path / "rows.npy", rows)
    wanted = rs.measure(rows, groups=labels, workers=1)
    assert rs.measure(rows, groups=labels, workers=3)["lidar"] == wanted["lidar"]
    parts = [
        rs.segment(tmp_path / "rows.npy", part=(part, 2), state=tmp_path / f"{part}", groups=labels) for part in (0, 1)
    ]
    assert rs.measure_state(rs.merge_states(parts))["lidar"] == wanted["lidar"]
    shown = table(json.loads(wanted.to_json()))
    assert "LiDAR uses 200 groups of 800 rows, with delta 0.0001." in shown
    assert "With as many other groups like these" in shown


@pytest.mark.parametrize("rows_per_group", [3, 30])  # kept as rows, and as a Gram matrix
@pytest.mark.parametrize("power", [300, 518, 540, 1000])
def test_groups_of_tiny_rows_are_scored_as_those_of_large_ones(power, rows_per_group):
    """LiDAR then sees the means alone, for delta hides the scatter; the shares of their eigenvalues have no unit."""
    generator = np.random.default_rng(5)
    labels = np.repeat(np.arange(12), rows_per_group)
    rows = np.round((generator.standard_normal((12, 6))[labels] + generator.standard_normal((len(labels), 6))) * 2**20)
    large, found = rs.measure(rows, groups=labels), rs.measure(np.ldexp(rows, -power), groups=labels)
    means = np.array([rows[labels == label].mean(axis=0) for label in range(12)])
    dense = np.linalg.svd(means - means.mean(axis=0), compute_uv=False)
    lidar = found["lidar"]
    assert lidar.lower <= rankme(dense**2, EPSILON) <= lidar.upper
    assert lidar.half_width < 1e-9
    for label in ("3", "11"):
        mine, theirs = large.groups[label]["rankme"], found.groups[label]["rankme"]
        assert (mine.lower, mine.value, mine.upper) == (theirs.lower, theirs.value, theirs.upper)
