"""The text of our kernels, compiled for the processor: the threads of a warp take turns, and meet where they must."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rankme_stream.numerics.devices import cuda_source

_SHIM = r"""
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#define __device__
#define __global__
#define __forceinline__ inline

struct Three { unsigned int x, y, z; };
static Three threadIdx, blockIdx, blockDim, gridDim;

// A warp is 32 contexts. Each lane runs until it meets the others, then the next does.
static ucontext_t scheduler, contexts[32];
static char stacks[32][1 << 16];
static bool is_warped, is_done[32];
static int lane, meetings[32];
static double slots[2][32];

static const double* meet(double mine) {
  if (!is_warped) { fprintf(stderr, "a warp meets where none was announced\n"); abort(); }
  double* given = slots[meetings[lane]++ % 2];
  given[lane] = mine;
  swapcontext(&contexts[lane], &scheduler);
  return given;
}

static bool __any_sync(unsigned int mask, bool is) {
  const double* given = meet(is);
  for (int i = 0; i < 32; ++i) if (given[i] != 0) return true;
  return false;
}

static double __shfl_xor_sync(unsigned int mask, double mine, int apart) {
  const int me = lane;
  return meet(mine)[me ^ apart];
}

static void atomicMax(unsigned long long* at, unsigned long long x) { if (x > *at) *at = x; }

template <class To, class From> static To bits_of(From x) { To y; memcpy(&y, &x, sizeof y); return y; }
static float __uint_as_float(unsigned int x) { return bits_of<float>(x); }
static long long __double_as_longlong(double x) { return bits_of<long long>(x); }

static double widened(float x) { return x; }
static float narrowed(double x) { return (float)x; }
static float widened_half(unsigned short x) {
  const int exponent = x >> 10 & 31, fraction = x & 1023;
  const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
    : exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp((float)fraction, -24);
  return x >> 15 ? -size : size;
}
"""

_LAUNCH = r"""
typedef long long Word;
typedef void (*Kernel)(Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word);
static Kernel kernel;
static const Word* words;

static void call() {
  const Word* a = words;
  kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]);
}

static void begin() { call(); is_done[lane] = true; }

static void set_thread(unsigned int i) {
  threadIdx.x = i % blockDim.x;
  threadIdx.y = i / blockDim.x;
  threadIdx.z = 0;
}

static void run_warp(unsigned int first) {
  for (int i = 0; i < 32; ++i) {
    is_done[i] = false;
    meetings[i] = 0;
    getcontext(&contexts[i]);
    contexts[i].uc_stack.ss_sp = stacks[i];
    contexts[i].uc_stack.ss_size = sizeof stacks[i];
    contexts[i].uc_link = &scheduler;
    makecontext(&contexts[i], begin, 0);
  }
  for (int n_done = 0; n_done < 32;) {
    n_done = 0;
    for (lane = 0; lane < 32; ++lane) {
      set_thread(first + lane);
      swapcontext(&scheduler, &contexts[lane]);
      n_done += is_done[lane];
    }
    if (n_done % 32) { fprintf(stderr, "%d lanes left their warp\n", n_done); abort(); }
  }
}

extern "C" void launch(void* address, const Word* arguments, const unsigned int* shape, int by_warps) {
  kernel = (Kernel)address;
  words = arguments;
  is_warped = by_warps;
  gridDim = {shape[0], shape[1], shape[2]};
  blockDim = {shape[3], shape[4], shape[5]};
  const unsigned int threads = blockDim.x * blockDim.y * blockDim.z;
  for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
        for (unsigned int i = 0; i < threads; i += by_warps ? 32 : 1) {
          if (by_warps) run_warp(i);
          else { set_thread(i); call(); }
        }
}
"""

_MOST_ARGUMENTS = 12
_DTYPES = {c: np.dtype("uint16" if name == "bfloat16" else name) for name, c in cuda_source.STORED_TYPES.items()}
_MEETING = ("fill", "squared_lengths", "unit_rows", "probe_rows")  # kernels whose warps meet


@cache
def source() -> str:
    """Return the text of all kernels: parts that are compiled one by one for a card, each in a namespace here."""
    parts = [cuda_source.panel_source(), *map(cuda_source.probe_source, cuda_source.PANEL_TYPES)]
    pairs = [(stored, panel) for stored in cuda_source.STORED_TYPES for panel in ("float32", "float64")]
    pairs += [(name, name) for name in ("float16", "bfloat16")]
    parts += [cuda_source.fill_source(*pair) for pair in pairs]
    return "".join(f"namespace part_{number} {{\n{text}}}\n" for number, text in enumerate(parts))


@cache
def library() -> ctypes.CDLL:
    """Return the compiled kernels; skip the test where there is no compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no compiler is here")
    text, n_replaced = re.subn(r"^__device__ .* asm\(.*$", "", source(), flags=re.MULTILINE)
    assert n_replaced == 3 * source().count("namespace")  # instructions of a card, which the shim has as well
    folder = Path(tempfile.mkdtemp(prefix="rankme-kernels-"))
    try:
        (folder / "kernels.cpp").write_text(_SHIM + text + _LAUNCH)
        options = ["-O1", "-w", "-std=c++14", "-shared", "-fPIC", "-ffp-contract=off"]
        subprocess.run([compiler, *options, "kernels.cpp", "-o", "kernels.so"], cwd=folder, check=True)
        return ctypes.CDLL(str(folder / "kernels.so"))
    finally:
        shutil.rmtree(folder)


@cache
def signatures() -> dict[str, list[np.dtype | None]]:
    """Return, for each kernel, the dtype of each argument that is a pointer, and None for each number."""
    found = re.findall(r'extern "C" __global__ void (\w+)\(([^)]*)\)', source())
    return {name: [_argument(text) for text in arguments.split(",")] for name, arguments in found}


def _argument(text: str) -> np.dtype | None:
    kind = " ".join(text.replace("*", " * ").replace("const", "").split()[:-1])
    return None if kind == "wide_int" else _DTYPES[kind.removesuffix(" *")]


def launch(name: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple) -> None:
    """Run a kernel on the processor; refuse arguments that are not those of its text."""
    wanted = signatures()[name]
    assert len(arguments) == len(wanted), name
    words = []
    for one, dtype in zip(arguments, wanted, strict=True):
        if dtype is None:
            assert type(one) is np.int64, (name, one)
            words.append(int(one))
        else:
            assert one.dtype == dtype or (one.dtype.name, dtype.name) == ("bfloat16", "uint16"), (name, one.dtype)
            words.append(one.ctypes.data)
    shape = [*grid, 1, 1, 1][:3] + [*block, 1, 1, 1][:3]
    assert all(0 < n < 2**16 for n in shape[1:3])
    assert 0 < shape[0] < 2**31
    assert np.prod(shape[3:]) <= 1024
    words += [0] * (_MOST_ARGUMENTS - len(words))
    library().launch(
        ctypes.cast(getattr(library(), name), ctypes.c_void_p), (ctypes.c_longlong * _MOST_ARGUMENTS)(*words),
        (ctypes.c_uint * 6)(*shape), int(name.startswith(_MEETING)),
    )  # fmt: skip
