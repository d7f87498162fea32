#!/usr/bin/env bash
# Dask on a cluster, a slice of an array that was made of one of numpy.
#
# The graph of an array made by `da.from_array` of a numpy array holds the numbers. With a client it is sent to the scheduler
# whole, and what a slice does not need is dropped there: computing one block in sixteen sends all sixteen. A loop over the
# blocks of such an array sends it once a block. The warning "Sending large graph" names the size, but not that it is that of
# the array and not of the slice. `array.persist()` before the loop sends it once.
#
# Seen on 2026-11-29 with Python 3.11.7, dask and distributed 2026.8.0: the three lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/slice.py" <<'PY'
import re
import warnings

import dask.array as da
import numpy as np
from distributed import Client

if __name__ == "__main__":
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        array = da.from_array(np.ones((16000, 250)), chunks=(1000, 250))  # 16 blocks of 2 MB

        def show(name, part):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                part.sum().compute()
            sizes = [found[1] for one in caught if (found := re.search(r"graph of size (\S+ \S+)\.", str(one.message)))]
            print(f"{name}: sends {sizes[0] if sizes else 'little'}")

        show("all rows", array)
        show("one block", array[:1000])
        show("one block of the persisted array", client.persist(array)[:1000])
PY
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'dask[array]==2026.8.0' distributed==2026.8.0 numpy==2.4.6
"$folder/venv/bin/python" "$folder/slice.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
all rows: sends 30.52 MiB
one block: sends 30.52 MiB
one block of the persisted array: sends little
SEEN
