"""Designs of samples: how units are sized, and how those of a population are dealt to replicates."""

from __future__ import annotations

import numpy as np
import pytest

from rankme_stream.passes.planning.sample_design import N_REPLICATES, draw_design, population_design


@pytest.mark.parametrize(("n_features", "unit_rows"), [(8, 1), (91, 1), (128, 2), (768, 16), (2048, 32), (20_000, 256)])
def test_units_are_so_small_that_the_first_look_finds_what_is_rare(n_features, unit_rows):
    design = draw_design(rows=(0, 10**8), n_features=n_features, seed=0)
    assert design.unit_rows == unit_rows
    assert design.first_look >= 459
    assert 10 * n_features <= design.first_look * unit_rows


@pytest.mark.parametrize(
    ("n_rows", "n_features", "unit_rows"),
    [(10**7, 8, 16), (10**7, 256, 64), (10**7, 768, 256), (10**7, 4096, 256), (20 * 256, 256, 32), (100, 4, 1)],
)
def test_a_population_shows_in_units_of_neighbours(n_rows, n_features, unit_rows):
    design = population_design(rows=(0, n_rows), n_features=n_features, seed=0)
    assert (design.unit_rows, design.in_runs) == (unit_rows, False)


def test_below_20_rows_a_feature_replicates_of_a_population_are_runs_of_units():
    design = population_design(rows=(5, 20 * 64 + 4), n_features=64, seed=0)
    assert design.in_runs
    replicates = list(design.units(0, design.n_units).values())  # by ascending units
    assert replicates == sorted(replicates)
    counts = np.bincount(replicates, minlength=N_REPLICATES)
    assert counts.max() - counts.min() <= 1
