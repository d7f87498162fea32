#!/usr/bin/env bash
# DuckDB, `COPY ... TO` Parquet of a column of fixed-size arrays (FLOAT[12]) in which a whole row is null.
#
# In memory a null array keeps its twelve places, and DuckDB writes as many entries of levels for it, where Parquet has one for
# a null list. So the column has 11 entries too many for each such row, and pyarrow refuses the file. DuckDB reads it back
# as it was, but for the type, which is FLOAT[] then. Pages of version 1 and 2 are alike. Arrays without null rows are
# right, and so are lists (FLOAT[]) with them: casting the column to FLOAT[] before writing is the remedy. The project has a
# report of it, duckdb/duckdb#24731.
#
# Seen on 2026-11-29 with Python 3.11.7, DuckDB 2.0.1 and pyarrow 26.0.1: the lines at the end, for 100 rows, two of them null.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/arrays.py" <<'PY'
import sys

import duckdb
import pyarrow as pa
from pyarrow import parquet

path = f"{sys.argv[1]}/x.parquet"
rows = [[float(i + k) for k in range(12)] for i in range(100)]
with_nulls = [None if i in (9, 20) else row for i, row in enumerate(rows)]


def show(dtype, rows, version):
    connection = duckdb.connect()
    connection.register("t", pa.table({"i": range(100), "e": pa.array(rows, pa.list_(pa.float32()))}))
    connection.execute(f"COPY (SELECT e::{dtype} AS e FROM t ORDER BY i) TO '{path}' (FORMAT parquet, PARQUET_VERSION {version})")
    n_entries = parquet.ParquetFile(path).metadata.row_group(0).column(0).num_values
    print(f"{dtype}, {rows.count(None)} null rows, {version}: {n_entries} entries")
    read = [row for (row,) in connection.execute(f"SELECT e FROM '{path}'").fetchall()]
    (dtype_read,) = connection.execute(f"SELECT any_value(typeof(e)) FROM '{path}'").fetchone()
    print(f"  DuckDB, as {dtype_read}:", "the same rows" if read == rows else "other rows")
    try:
        read = parquet.read_table(path)["e"].to_pylist()
        print("  pyarrow:", "the same rows" if read == rows else "other rows")
    except pa.ArrowInvalid as error:
        print("  pyarrow:", error)


show("FLOAT[12]", with_nulls, "V1")
show("FLOAT[12]", with_nulls, "V2")
show("FLOAT[12]", rows, "V1")
show("FLOAT[12]::FLOAT[]", with_nulls, "V1")
PY
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check duckdb==2.0.1 pyarrow==26.0.1
"$folder/venv/bin/python" "$folder/arrays.py" "$folder" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
FLOAT[12], 2 null rows, V1: 1200 entries
  DuckDB, as FLOAT[]: the same rows
  pyarrow: Length spanned by list offsets (1198) larger than values array (length 1176)
FLOAT[12], 2 null rows, V2: 1200 entries
  DuckDB, as FLOAT[]: the same rows
  pyarrow: Length spanned by list offsets (1198) larger than values array (length 1176)
FLOAT[12], 0 null rows, V1: 1200 entries
  DuckDB, as FLOAT[]: the same rows
  pyarrow: the same rows
FLOAT[12]::FLOAT[], 2 null rows, V1: 1178 entries
  DuckDB, as FLOAT[]: the same rows
  pyarrow: the same rows
SEEN
