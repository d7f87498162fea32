"""Metrics, each with the function that gives its extremes over a consistent set of spectra."""

from __future__ import annotations

from rankme_stream.spectra import intervals, metrics

METRICS = {
    "rankme": (lambda box: intervals.entropy_rank(box, eps=1e-7), metrics.rankme),
    "effective_rank": (intervals.entropy_rank, metrics.effective_rank),
    "large eps": (lambda box: intervals.entropy_rank(box, eps=0.1), lambda s: metrics.rankme(s, 0.1)),
    "eps in the sum": (
        lambda box: intervals.entropy_rank(box, eps=1e-12, eps_in_sum=1e-12), metrics.PRESETS["tsitsulin"].compute
    ),
    "variance": (lambda box: intervals.entropy_rank(box, squares=True), metrics.variance_effective_rank),
    "participation": (intervals.participation_ratio, metrics.participation_ratio),
    "stable": (intervals.stable_rank, metrics.stable_rank),
    "numerical": (
        lambda box: intervals.numerical_rank(box, unit_roundoff=0.01),
        lambda s: metrics.numerical_rank(s, unit_roundoff=0.01),
    ),
    "condition": (intervals.condition_number, metrics.condition_number),
    "self_cluster": (
        lambda box: intervals.self_cluster(box, n_rows=50, n_features=40),
        lambda s: metrics.self_cluster(s, n_rows=50, n_features=40),
    ),
}  # fmt: skip
