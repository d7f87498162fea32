#!/usr/bin/env bash
# CuPy, kernels in float32 that meet subnormal values, among them kernels compiled with `-ftz=false`.
#
# CuPy appends `-ftz=true` to the options of whatever it compiles, a RawModule of the user too. NVRTC takes the last of two
# such options, so that `-ftz=false` changes nothing; its warning goes to a log that is dropped unless one asks for it. The
# arithmetic of float32 becomes `.ftz` instructions, which take subnormal operands and results for zero. numpy keeps them,
# and so does the same source compiled by NVRTC alone. Values under 1.2e-38 cannot even be scaled up first: times 2**100
# they are zero in CuPy and numbers in numpy.
#
# No card is needed: the kernel is compiled to PTX for one that is named, by the function that RawModule calls, and read.
# Seen on 2026-11-28 with Python 3.11.7, CuPy 14.2.0, NVRTC 13.0.88 and numpy 2.4.6: the four lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/halve.py" <<'PY'
import re

import numpy as np
from cupy._core.core import compile_with_cache
from cupy.cuda import compiler

SOURCE = 'extern "C" __global__ void halve(float* x) { x[threadIdx.x] *= 0.5f; }'
TARGET = "-arch=compute_90"


class Compiled(Exception):
    pass


class Cache:
    def load(self, name):
        return None

    def save(self, name, payload, source):  # before the driver, which may be missing, is asked to load it
        raise Compiled(payload)


compiler._get_arch_for_options_for_nvrtc = lambda arch=None: (TARGET, "ptx")  # would ask the driver for its card
compiler._set_kernel_cache_backend(Cache())


def by_cupy(*options):
    try:
        compile_with_cache(SOURCE, options, arch="90", prepend_cupy_headers=False)
    except Compiled as compiled:
        return compiled.args[0]


def multiplication(ptx):
    return re.search(r"\bmul\.\S*f32", ptx.decode()).group()


print("numpy:", np.finfo("f4").smallest_normal * np.float32(0.5) > 0)
print("NVRTC:", multiplication(compiler._NVRTCProgram(SOURCE).compile((TARGET,))[0]))
print("CuPy:", multiplication(by_cupy()))
print("CuPy, -ftz=false:", multiplication(by_cupy("-ftz=false")))
PY
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    cupy-cuda13x==14.2.0 nvidia-cuda-nvrtc==13.0.88 numpy==2.4.6
"$folder/venv/bin/python" "$folder/halve.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
numpy: True
NVRTC: mul.f32
CuPy: mul.ftz.f32
CuPy, -ftz=false: mul.ftz.f32
SEEN
