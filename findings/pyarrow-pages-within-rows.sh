#!/usr/bin/env bash
# pyarrow, where data pages of a list column of Parquet begin: 14.0.2 against 26.0.1.
#
# Both write pages of version 1 by default. The older release ends a page after some batch of values, also in the middle of a
# list, so that a row of an embedding column lies in two pages; the newer one ends it between rows. Parquet allows both. A
# reader that takes a page for whole rows (to read a part of a row group, say, or to split one among workers) is right for new
# files and shifts the rows of old ones: repetition levels have to be looked at, or counts of values.
#
# Seen on 2026-11-29 with Python 3.11.7: the two lines at the end. pyarrow 14 needs Python 3.8 to 3.12.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/pages.py" <<'PY'
import sys

import numpy as np
import pyarrow as pa
from pyarrow import parquet

WIDTH = 7
values = pa.array(np.arange(300 * WIDTH, dtype="f4"))
lists = pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, WIDTH, dtype="i4")), values)
parquet.write_table(
    pa.table({"embedding": lists}), sys.argv[1], use_dictionary=False, compression="none", write_statistics=False,
    data_page_size=400, write_batch_size=50,
)  # fmt: skip
column = parquet.ParquetFile(sys.argv[1]).metadata.row_group(0).column(0)
stored = open(sys.argv[1], "rb").read()


def number(at):
    """Return a zigzag number of Thrift's compact protocol, and the offset behind it."""
    found = shift = 0
    while True:
        found |= (stored[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if stored[at - 1] < 128:
            return found >> 1, at


at, n_values, n_pages, within = column.data_page_offset, 0, 0, 0
while n_values < len(values):
    fields = []
    for name in ("15", "15", "15", "2c15", "15", "15", "15"):  # type, two sizes; number of values, three encodings
        assert stored[at : at + len(name) // 2].hex() == name, "a header of another form"
        field, at = number(at + len(name) // 2)
        fields.append(field)
    assert stored[at : at + 4].hex() == "1c000000" and fields[0] == 0, "a header of another form"
    within += n_values % WIDTH != 0
    at, n_values, n_pages = at + 4 + fields[2], n_values + fields[3], n_pages + 1
print(f"{pa.__version__}: {'some' if within else 'no'} pages begin within a row")
print(f"{within} of {n_pages}", file=sys.stderr)
PY
for pair in "14.0.2 1.26.4" "26.0.1 2.4.6"; do
    read -r version numpy <<< "$pair"
    "${PYTHON:-python3}" -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip install --quiet --disable-pip-version-check "pyarrow==$version" "numpy==$numpy"
    "$folder/$version/bin/python" "$folder/pages.py" "$folder/$version.parquet" | tee -a "$folder/seen"
done
diff "$folder/seen" - <<'SEEN'
14.0.2: some pages begin within a row
26.0.1: no pages begin within a row
SEEN
