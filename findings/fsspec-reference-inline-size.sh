#!/usr/bin/env bash
# fsspec's reference file system, small chunks that kerchunk keeps inside the references.
#
# The size in `info` is the length of the text that stands for the chunk, "base64:" with it, not that of the chunk, which
# `cat_file` returns. Whoever compares both, or allocates by the size, takes a good chunk for a damaged one.
#
# Seen on 2026-11-28 with Python 3.11.7, fsspec 2026.9.0, kerchunk 0.2.10 and h5py 3.16.0: the two lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/inline.py" <<'PY'
import sys

import fsspec
import h5py
import numpy as np
from kerchunk.hdf import SingleHdf5ToZarr

path = f"{sys.argv[1]}/x.h5"
with h5py.File(path, "w") as file:
    file.create_dataset("rows", data=np.random.default_rng(0).standard_normal((30, 4)).astype("f4"), chunks=(5, 4))
files = fsspec.filesystem("reference", fo=SingleHdf5ToZarr(path).translate())
print("info:", files.info("rows/0.0")["size"])
print("cat_file:", len(files.cat_file("rows/0.0")))
PY
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    fsspec==2026.9.0 kerchunk==0.2.10 h5py==3.16.0 zarr==3.1.6
"$folder/venv/bin/python" "$folder/inline.py" "$folder" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
info: 115
cat_file: 80
SEEN
