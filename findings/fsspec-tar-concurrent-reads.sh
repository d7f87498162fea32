#!/usr/bin/env bash
# zarr-python and fsspec, an array without a codec in a tar file.
#
# Members of a tar file share one position in it. zarr runs the methods of fsspec's tar file system in several threads, so
# that one thread moves the position between the `seek` and the `read` of another, which gets bytes of another chunk. There
# is no error: the array has the right shape and wrong rows. One chunk at a time (`async.concurrency` of 1) is right.
#
# Seen on 2026-11-28 with Python 3.11.7, zarr 3.1.6 and fsspec 2026.9.0: the two lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/tar.py" <<'PY'
import sys
import tarfile

import numpy as np
import zarr

folder = sys.argv[1]
rows = np.random.default_rng(0).standard_normal((20000, 64)).astype("f4")
array = zarr.create_array(f"{folder}/x.zarr", shape=rows.shape, chunks=(500, 64), dtype="f4", compressors=None)
array[:] = rows
with tarfile.open(f"{folder}/x.tar", "w") as archive:
    archive.add(f"{folder}/x.zarr", arcname="x.zarr")
for at_once in (1, 10):
    with zarr.config.set({"async.concurrency": at_once}):
        found = zarr.open_array(f"tar://x.zarr::file://{folder}/x.tar", mode="r")
        same = [np.array_equal(found[:], rows) for _ in range(10)]
    print(f"{at_once} at once: {'always' if all(same) else 'not always'} the rows that were written")
PY
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check zarr==3.1.6 fsspec==2026.9.0
"$folder/venv/bin/python" "$folder/tar.py" "$folder" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
1 at once: always the rows that were written
10 at once: not always the rows that were written
SEEN
