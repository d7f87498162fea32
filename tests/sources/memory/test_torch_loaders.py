"""Loaders and data sets of torch: blocks of the member that is named, or a row an item. Skipped without torch."""

from __future__ import annotations

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import SourceFormatError

torch = pytest.importorskip("torch")
ROWS = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)


def test_loaders_and_data_sets_have_the_bits_of_the_array() -> None:
    data = torch.utils.data
    rows, labels = torch.from_numpy(ROWS), torch.arange(300)
    pairs, alone = data.TensorDataset(rows, labels), data.TensorDataset(rows)
    wanted = rs.measure(ROWS).estimates
    for source, key in ((pairs, 0), (alone, None)):
        assert rs.measure(data.DataLoader(source, batch_size=33), key=key).estimates == wanted
        assert rs.measure(source, key=key).estimates == wanted
    dicts = [{"rows": row, "label": 0} for row in rows]
    assert rs.measure(data.DataLoader(dicts, batch_size=50), key="rows").estimates == wanted
    with pytest.raises(SourceFormatError, match="block 0 has 2 members: name the one that holds the rows"):
        rs.measure(data.DataLoader(pairs, batch_size=33))


def test_bfloat16_of_a_loader_is_read_as_it_is() -> None:
    rows = torch.from_numpy(ROWS).bfloat16()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=64)
    assert rs.measure(loader).estimates == rs.measure(rows).estimates
