#!/usr/bin/env bash
# PyTorch, the environment variable TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which containers of NVIDIA set to 1.
#
# With it float32 products on a card may use TF32, about three digits, without a line of code that says so. The setting for
# all, `torch.backends.fp32_precision = "ieee"`, reaches products without the variable. With it, it does not, and reads back
# as "ieee" all the same: the variable counts as a setting for products, and the narrower setting wins. Products can be set
# by `torch.backends.cuda.matmul.fp32_precision`, after which reading `allow_tf32` raises and
# `get_float32_matmul_precision()` still says "high". The documentation has the variable override
# `set_float32_matmul_precision`; in fact a call of that overrides the variable.
#
# These are the settings, which a build without CUDA keeps as well; what they do takes a card. For Linux.
# Seen on 2026-11-28 with Python 3.11.7 and torch 2.13.0+cpu (as with 2.14.1+cu130): the five lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/settings.py" <<'PY'
import sys
import warnings

warnings.simplefilter("ignore")  # of numpy, which is not installed, and of settings that will go
import torch

products = torch.backends.cuda.matmul
name = sys.argv[1]
if name == "all ieee":
    torch.backends.fp32_precision = "ieee"
elif name == "products ieee":
    products.fp32_precision = "ieee"
elif name == "highest":
    torch.set_float32_matmul_precision("highest")
try:
    allow_tf32 = products.allow_tf32
except RuntimeError as error:
    allow_tf32 = type(error).__name__
print(
    f"all {torch.backends.fp32_precision}, products {products.fp32_precision}, "
    f"allow_tf32 {allow_tf32}, {torch.get_float32_matmul_precision()}"
)
PY
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu
show() {
    echo "$1, $2: $(TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=$1 "$folder/venv/bin/python" "$folder/settings.py" "$2")"
}
{
    show 0 "all ieee"
    show 1 "nothing set"
    show 1 "all ieee"
    show 1 "products ieee"
    show 1 "highest"
} | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
0, all ieee: all ieee, products ieee, allow_tf32 False, highest
1, nothing set: all none, products tf32, allow_tf32 True, high
1, all ieee: all ieee, products tf32, allow_tf32 True, high
1, products ieee: all none, products ieee, allow_tf32 RuntimeError, high
1, highest: all none, products ieee, allow_tf32 False, highest
SEEN
