#!/usr/bin/env bash
# zarr-python, stores that wrap a store (zarr.storage.WrapperStore), 3.2.1 against 3.4.2.
#
# A subclass of WrapperStore that overrides `get` sees every read of a sharded array in zarr 3.2.1. In zarr 3.4.2 the
# inner chunks of a shard are read by `get_ranges`, which WrapperStore hands straight to the wrapped store: `get` of the
# subclass sees the index of the shard and none of its chunks. Whoever counts, checks or caches reads in `get` (as the
# class's purpose suggests) has to override `get_ranges` as well from then on.
#
# Needs Python 3.12 or later: PYTHON=python3.13 bash findings/zarr-wrapper-store-get-ranges.sh
# Seen on 2026-11-28 with Python 3.13.0: "3.2.1: index 1, chunks 2" and "3.4.2: index 1, chunks 0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/reads.py" <<'PY'
import sys

import numpy as np
import zarr
from zarr.storage import LocalStore, WrapperStore


class Counting(WrapperStore):
    ranges = []

    async def get(self, key, prototype, byte_range=None):
        if byte_range is not None:
            self.ranges.append(byte_range)
        return await super().get(key, prototype, byte_range)


local = LocalStore(sys.argv[1])
array = zarr.create_array(local, shape=(8, 4), shards=(8, 4), chunks=(2, 4), dtype="f4", compressors=None)
array[:] = np.arange(32, dtype="f4").reshape(8, 4)
counting = Counting(LocalStore(sys.argv[1], read_only=True))
rows = zarr.open_array(counting, mode="r")[2:6]  # two of the four inner chunks
assert (rows == np.arange(8, 24, dtype="f4").reshape(4, 4)).all()
index = sum("Suffix" in type(one).__name__ for one in counting.ranges)
print(f"{zarr.__version__}: index {index}, chunks {len(counting.ranges) - index}")
PY
for version in 3.2.1 3.4.2; do
    "${PYTHON:-python3}" -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip install --quiet --disable-pip-version-check "zarr==$version"
    "$folder/$version/bin/python" "$folder/reads.py" "$folder/store-$version.zarr" | tee -a "$folder/seen"
done
diff "$folder/seen" - <<'SEEN'
3.2.1: index 1, chunks 2
3.4.2: index 1, chunks 0
SEEN
