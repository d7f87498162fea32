"""Labels in what pandas itself makes; the suite has stand-ins for it (test_labels), and no pandas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.sources.test_labels import CELLS, HAS, KIND, NAMES, WANTED, counts


@pytest.mark.parametrize(
    "made",
    [
        lambda: pd.Categorical(CELLS),
        lambda: pd.Series(pd.Categorical(CELLS)),
        lambda: pd.CategoricalIndex(pd.Categorical(CELLS)),
        lambda: pd.Series(CELLS),
        lambda: pd.Series(CELLS, dtype="string"),
        lambda: np.array([name if name else pd.NA for name in CELLS], dtype=object),
        lambda: pd.Index(CELLS),
    ],
)
def test_strings_of_pandas_may_be_none(made: Any) -> None:
    assert counts(made()) == WANTED


@pytest.mark.parametrize(
    "made",
    [
        lambda: pd.Series(KIND).astype("Int64").mask(~HAS),
        lambda: pd.Categorical(np.where(HAS, KIND, -1), categories=range(5)),
    ],
)
def test_integers_of_pandas_may_be_none(made: Any) -> None:
    assert counts(made()) == {str(kind): WANTED[str(name)] for kind, name in enumerate(NAMES)}


def test_booleans_of_pandas_may_be_none() -> None:
    assert counts(pd.Series(KIND > 2).astype("boolean").mask(~HAS))["True"] == (HAS & (KIND > 2)).sum()
