"""The forms of metrics that a contour gives are the metrics themselves, for a sum over given eigenvalues."""

from __future__ import annotations

import numpy as np
import pytest

from rankme_stream.spectra.contour import Contour
from rankme_stream.spectra.estimates import METRICS, NORMALIZED, PRESETS, values_of
from rankme_stream.spectra.spectrum import ConsistentSet, SingularValues, Spectrum

TABLES = {"metrics": METRICS, "presets": PRESETS, "unit rows": NORMALIZED}
SUMS = {
    "metrics": {
        "rankme", "effective_rank", "centered_rankme", "centered_effective_rank", "variance_effective_rank",
        "participation_ratio", "isoscore",
    },
    "presets": {"paper", "roy-vetterli", "stable-pretraining", "reptrix"},
    "unit rows": {"rankme", "vendi"},
}  # fmt: skip


@pytest.mark.parametrize("zeros", [0, 5])
@pytest.mark.parametrize("name", TABLES)
def test_sums_over_given_eigenvalues_are_the_metrics(name, zeros):
    kept = np.arange(1, 41) ** -0.7
    values = np.append(kept, np.zeros(zeros))
    side = SingularValues(values, ConsistentSet(values, values))
    spectrum = Spectrum(side, side, 1000, len(values), 2.0**-53, (0.0, 0.0), "certified", 1.0, "none")
    sums = Contour((kept**2).astype(complex), np.full(kept.size, 0.5 + 0.0j), kept.size)
    wanted, found = values_of(TABLES[name], spectrum), {}
    for metric_name, metric in TABLES[name].items():
        form = metric.contour_sum
        if form is not None:
            found[metric_name] = form.value(form.logarithm(sums, zeros), len(values))
            assert found[metric_name] == pytest.approx(wanted[metric_name], rel=1e-12), metric_name
    assert found.keys() == SUMS[name]
