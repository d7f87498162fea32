"""Writes pages_within_rows.parquet, whose pages begin within rows, as older pyarrow wrote them (run with 14.0.2)."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

ROWS = np.arange(2100, dtype=np.float32).reshape(300, 7)

if __name__ == "__main__":
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, 2107, 7, dtype=np.int32)), pa.array(ROWS.reshape(-1)))
    path = Path(__file__).with_suffix(".parquet")
    parquet.write_table(pa.table({"emb": lists}), path, use_dictionary=False, data_page_size=400, write_batch_size=50)
