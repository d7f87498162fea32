#!/usr/bin/env bash
# zarr-python, reading arrays stored in big-endian order on a little-endian machine, 3.2.1 against 3.4.2.
#
# zarr 3.2.1 hands a decoded chunk on as a view in the stored byte order; zarr 3.4.2 copies it to the machine's order in
# the codec `bytes`. So the peak of reading a chunk that does not compress grows by one chunk: from about three chunks (the
# result, the stored bytes and the decoded ones) to about four. A budget measured on the older release is a quarter short.
#
# Needs Python 3.12 or later: PYTHON=python3.13 bash findings/zarr-big-endian-memory.sh
# Seen on 2026-11-28 with Python 3.13.0: "3.2.1: 3 chunks" and "3.4.2: 4 chunks".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/peak.py" <<'PY'
import sys
import tracemalloc

import numpy as np
import zarr
from zarr.codecs import BytesCodec

shape = (1000, 1024)
array = zarr.create_array(
    sys.argv[1], shape=shape, chunks=shape, dtype="uint32", serializer=BytesCodec(endian="big")
)  # zstd, as by default
array[:] = np.random.default_rng(0).integers(0, 2**32, shape, np.uint32)
stored = zarr.open_array(sys.argv[1], mode="r")
stored[:]  # what a first read imports is not measured
tracemalloc.start()
stored[:]
peak = tracemalloc.get_traced_memory()[1]
print(f"{zarr.__version__}: {peak / array.nbytes:.0f} chunks")
PY
for version in 3.2.1 3.4.2; do
    "${PYTHON:-python3}" -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip install --quiet --disable-pip-version-check "zarr==$version"
    "$folder/$version/bin/python" "$folder/peak.py" "$folder/store-$version.zarr" | tee -a "$folder/seen"
done
diff "$folder/seen" - <<'SEEN'
3.2.1: 3 chunks
3.4.2: 4 chunks
SEEN
