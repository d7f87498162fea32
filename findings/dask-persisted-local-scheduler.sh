#!/usr/bin/env bash
# Dask, an array that is persisted on a cluster and computed by a scheduler of the process itself.
#
# `persist` replaces the blocks of an array by futures of the cluster. `compute(scheduler="threads")`, or the same in
# `dask.config`, no longer asks the client, which alone can resolve them, and ends in "ValueError: Missing dependency". The
# name of the block in the message is all that points to `persist`. Whoever is handed a Dask array and computes its blocks
# with threads has to look for futures in its graph first, and to use `future.client.compute` where there are some.
#
# Seen on 2026-11-29 with Python 3.11.7, dask and distributed 2026.8.0: the three lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/persisted.py" <<'PY'
import dask.array as da
from distributed import Client

if __name__ == "__main__":
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        array = da.ones((1000, 4), chunks=(500, 4)).persist()
        for scheduler in (client, "threads", "sync"):
            name = scheduler if isinstance(scheduler, str) else "its client"
            try:
                print(f"{name}: {array.sum().compute(scheduler=scheduler)}")
            except ValueError as error:
                print(f"{name}: ValueError: {str(error)[:18]}")
PY
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'dask[array]==2026.8.0' distributed==2026.8.0 numpy==2.4.6
"$folder/venv/bin/python" "$folder/persisted.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
its client: 4000.0
threads: ValueError: Missing dependency
sync: ValueError: Missing dependency
SEEN
