"""Rows judged by the flags of a card as the host judges them by looking."""

from __future__ import annotations

from itertools import product

import array_api_compat.numpy as array_api_numpy
import numpy as np
import pytest

from rankme_stream.errors import MagnitudeError, NonFiniteError, ZeroRowError
from rankme_stream.numerics.devices.array_api import StandardDevice
from rankme_stream.numerics.devices.card import Seen
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.passes.loop.panels import PanelWriter
from rankme_stream.passes.loop.row_faults import RowFaults, with_magnitude
from rankme_stream.passes.state.audit import Rules
from rankme_stream.sources import ArraySource

TYPES = ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
CARD = StandardDevice(array_api_numpy, "a card", types=TYPES)
FAULTS = {"nan": np.nan, "infinite": -np.inf, "zero": 0.0, "constant": 3.0, "large": 2.0**481}


def rows_with(fault: str, dtype: str = "float64") -> np.ndarray:
    rows = np.random.default_rng(3).standard_normal((40, 5)).astype(dtype)
    rows[7, 2 if fault in ("nan", "infinite", "large") else slice(None)] = FAULTS[fault]
    rows[9] = rows[7]
    return rows


def on_host(source, rules):
    panel = np.full((source.shape[0], 1 + source.shape[1]), 5.0)
    audit = PanelWriter(source, Workspace(), rules).write(0, source.read(0, source.shape[0]), panel)
    return audit, panel


def on_card(source, rules):
    n_rows, n_features = source.shape
    faults, panel = RowFaults(source, rules), np.full((n_rows, 1 + n_features), 5.0)
    seen = Seen(np.zeros(n_rows, np.uint8), np.zeros(1), np.zeros(n_features, np.uint8))
    CARD.fill_slab(source.read(0, n_rows), source.stored, panel, seen, faults.skipped_flags)
    audit = with_magnitude(faults.of_flags(0, seen.flags), float(seen.largest[0]))
    assert (seen.nonzero != 0).tolist() == (panel[:, 1:] != 0.0).any(axis=0).tolist()
    return audit, panel


def outcome(look, source, rules):
    try:
        return look(source, rules)
    except (NonFiniteError, ZeroRowError, MagnitudeError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("nonfinite", "zeros"), list(product(("error", "skip"), ("error", "skip", "count"))))
def test_flags_are_judged_as_the_host_judges_rows(fault, nonfinite, zeros):
    source, rules = ArraySource(rows_with(fault)), Rules(nonfinite=nonfinite, zeros=zeros)
    here, there = outcome(on_host, source, rules), outcome(on_card, source, rules)
    assert here[0] == there[0]
    assert np.array_equal(here[1], there[1])  # the panel, or the message
    assert isinstance(here[0], type) == (
        fault == "large"
        or (fault in ("nan", "infinite") and nonfinite == "error")
        or (fault, zeros) == ("zero", "error")
    )


@pytest.mark.parametrize("dtype", TYPES)
def test_values_of_every_type_are_those_of_the_host(dtype):
    drawn = np.random.default_rng(5).standard_normal((33, 7)) * 50
    rows = (np.abs(drawn) if dtype.startswith("u") else drawn).astype(dtype)
    rows[4] = 0
    source = ArraySource(rows)
    (audit, panel), (audit_there, panel_there) = on_host(source, Rules()), on_card(source, Rules())
    assert np.array_equal(panel, panel_there)
    assert audit == audit_there
    assert audit.rows_zero == 1


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_integers_that_float64_cannot_hold_are_refused_with_their_row(dtype):
    rows = np.ones((9, 3), dtype)
    rows[5, 1] = 2**53 + 1
    source = ArraySource(rows, "dump")
    here, there = outcome(on_host, source, Rules()), outcome(on_card, source, Rules())
    assert here == there
    assert "row 5 holds integers beyond 2^53" in here[1]
