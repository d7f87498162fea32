#!/usr/bin/env bash
# numpy and ml_dtypes, the mean of many rows in bfloat16.
#
# numpy takes the mean of float16 with a sum in float32. That is a rule for float16 alone: for bfloat16, which ml_dtypes
# adds, the sum is bfloat16 too and stands still once a value is no more than half of its last digit, at 256 for ones. There
# is no warning, and `np.dot` of the same values is right. Whoever centers embeddings by `mean(axis=0)` leaves most of the
# mean in them; `mean(axis=0, dtype=np.float32)` is right.
#
# Seen on 2026-11-28 with Python 3.11.7, numpy 2.4.6 and ml_dtypes 0.6.0: the three lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/mean.py" <<'PY'
import ml_dtypes
import numpy as np


def show(name, rows, **options):
    column = rows[:, 0]
    print(f"{name}: mean {rows.mean(axis=0, **options)[0]:.3f}, dot {np.dot(column, column):.0f}")


ones = np.ones((1000, 4), "f4")
show("float16", ones.astype("f2"))
show("bfloat16", ones.astype(ml_dtypes.bfloat16))
show("bfloat16, dtype=np.float32", ones.astype(ml_dtypes.bfloat16), dtype=np.float32)
PY
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" "$folder/mean.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
float16: mean 1.000, dot 1000
bfloat16: mean 0.256, dot 1000
bfloat16, dtype=np.float32: mean 1.000, dot 1000
SEEN
