"""The CUDA C++ of the kernels of a card: every value is looked at once, and products are added up in a fixed order.

NVRTC compiles it, which finds no header: no ``cuda_fp16.h``. Arguments are pointers and ``long long`` alone. A matrix
is given by its first value and by the distance of its rows, in values (``..._row``).
"""

from __future__ import annotations

from rankme_stream.numerics.devices.card import CONSTANT, INEXACT, LARGE, LEAST_DIAGONAL, NONFINITE, ZERO
from rankme_stream.numerics.dtypes import EXACT_INTEGER, LARGEST_MAGNITUDE

CHUNK_ROWS = 32  # that one thread adds up: the sums of a column run side by side
PROBED_ROWS = 64  # that one thread multiplies by their images
STORED_TYPES = {
    "float16": "float16", "bfloat16": "bfloat16", "float32": "float", "float64": "double",
    "int8": "signed char", "uint8": "unsigned char", "int16": "short", "uint16": "unsigned short",
    "int32": "int", "uint32": "unsigned int", "int64": "long long", "uint64": "unsigned long long",
}  # fmt: skip
PANEL_TYPES = ("float16", "bfloat16", "float32", "float64")

_NUMBERS = r"""
typedef long long wide_int;
struct float16 { unsigned short bits; };
struct bfloat16 { unsigned short bits; };

// CuPy compiles with -ftz=true, which takes subnormal float32 for zeros; these instructions do not.
__device__ float widened_half(unsigned short x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x)); return y; }
__device__ double widened(float x) { double y; asm("cvt.f64.f32 %0, %1;" : "=d"(y) : "f"(x)); return y; }
__device__ float narrowed(double x) { float y; asm("cvt.rn.f32.f64 %0, %1;" : "=f"(y) : "d"(x)); return y; }

// The value of a number as stored: float64 of floats, whole numbers as they are.
__device__ __forceinline__ double value(float16 x) { return widened(widened_half(x.bits)); }
__device__ __forceinline__ double value(bfloat16 x) { return widened(__uint_as_float((unsigned int)x.bits << 16)); }
__device__ __forceinline__ double value(float x) { return widened(x); }
template <class T> __device__ __forceinline__ T value(T x) { return x; }

template <class T> __device__ __forceinline__ float narrowed(T x) { return (float)x; }
template <class To, class From> struct Cast {
  static __device__ __forceinline__ To of(From x) { return (To)value(x); }
};
template <class From> struct Cast<float, From> {
  static __device__ __forceinline__ float of(From x) { return narrowed(value(x)); }
};
template <class T> struct Same { static __device__ __forceinline__ T of(T x) { return x; } };
template <> struct Cast<float, float> : Same<float> {};
template <> struct Cast<float16, float16> : Same<float16> {};
template <> struct Cast<bfloat16, bfloat16> : Same<bfloat16> {};

template <class T> __device__ __forceinline__ T one() { return (T)1; }
template <> __device__ __forceinline__ float16 one<float16>() { float16 x = {0x3C00}; return x; }
template <> __device__ __forceinline__ bfloat16 one<bfloat16>() { bfloat16 x = {0x3F80}; return x; }

template <class T> __device__ __forceinline__ bool is_inexact(T) { return false; }
__device__ __forceinline__ bool is_inexact(long long x) { return x > EXACT_INTEGER || x < -EXACT_INTEGER; }
__device__ __forceinline__ bool is_inexact(unsigned long long x) { return x > EXACT_INTEGER; }

// Bits of the magnitude of stored float64, ordered as the magnitudes are, NaN above all; 0 for other types.
template <class T> __device__ __forceinline__ unsigned long long magnitude(T) { return 0; }
__device__ __forceinline__ unsigned long long magnitude(double x) {
  return __double_as_longlong(x) & 0x7FFFFFFFFFFFFFFFll;
}

__device__ __forceinline__ bool in_warp(bool is) { return __any_sync(0xFFFFFFFFu, is); }
__device__ __forceinline__ wide_int thread() { return (wide_int)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ wide_int warps() { return (wide_int)gridDim.x * blockDim.x / 32; }
__device__ __forceinline__ wide_int thread_row() { return (wide_int)blockIdx.y * blockDim.y + threadIdx.y; }
__device__ __forceinline__ wide_int thread_rows() { return (wide_int)gridDim.y * blockDim.y; }
"""

_ROWS = r"""
// The sum of squares of a row, by a warp: the same in all its threads.
__device__ __forceinline__ double squared_length(const double* row, wide_int columns) {
  double sum = 0;
  for (wide_int column = threadIdx.x % 32; column < columns; column += 32) sum += row[column] * row[column];
  for (int apart = 16; apart; apart /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, apart);
  return sum;
}

extern "C" __global__ void squared_lengths(
    const double* x, wide_int x_row, wide_int rows, wide_int columns, double* out) {
  for (wide_int row = thread() / 32; row < rows; row += warps()) {
    const double sum = squared_length(x + row * x_row, columns);
    if (threadIdx.x % 32 == 0) out[row] = sum;
  }
}

extern "C" __global__ void unit_rows(
    const double* slab, wide_int slab_row, double* out, wide_int out_row, wide_int rows, wide_int features) {
  for (wide_int row = thread() / 32; row < rows; row += warps()) {
    const double* from = slab + row * slab_row;
    double* to = out + row * out_row;
    const double sum = squared_length(from + 1, features), scale = sum == 0 ? 1 : 1 / sqrt(sum);
    if (threadIdx.x % 32 == 0) to[0] = sum == 0 ? 0 : from[0];
    for (wide_int column = threadIdx.x % 32; column < features; column += 32) to[1 + column] = from[1 + column] * scale;
  }
}

extern "C" __global__ void scale_rows(
    const double* x, wide_int x_row, const double* scales, double* out, wide_int out_row, wide_int rows,
    wide_int columns) {
  const wide_int column = thread();
  if (column >= columns) return;
  for (wide_int row = thread_row(); row < rows; row += thread_rows())
    out[row * out_row + column] = x[row * x_row + column] * scales[row];
}

extern "C" __global__ void narrow(
    const double* x, wide_int x_row, float* out, wide_int out_row, wide_int rows, wide_int columns) {
  const wide_int column = thread();
  if (column >= columns) return;
  for (wide_int row = thread_row(); row < rows; row += thread_rows())
    out[row * out_row + column] = narrowed(x[row * x_row + column]);
}

// Sums, and sums of squares, of each column over the rows of a chunk: blockIdx.y is the chunk, blockIdx.z the panel.
template <class Panel> __device__ __forceinline__ void sum_columns(
    const Panel* slab, wide_int slab_row, wide_int panel_rows, wide_int width, double* sums) {
  const wide_int column = thread(), low = (wide_int)blockIdx.y * CHUNK_ROWS;
  if (column >= width) return;
  const wide_int count = panel_rows - low < CHUNK_ROWS ? panel_rows - low : CHUNK_ROWS;
  const Panel* from = slab + (blockIdx.z * panel_rows + low) * slab_row + column;
  double sum = 0, squares = 0;
  #pragma unroll 8
  for (wide_int row = 0; row < count; ++row) {
    const double x = value(from[row * slab_row]);
    sum += x;
    squares += x * x;
  }
  double* to = sums + ((wide_int)blockIdx.z * gridDim.y + blockIdx.y) * 2 * width + column;
  to[0] = sum;
  to[width] = squares;
}

// Sums of the next chunks of each panel, CHUNK_ROWS at a time.
extern "C" __global__ void sum_chunks(const double* sums, wide_int chunks, wide_int size, double* out) {
  const wide_int i = thread(), low = (wide_int)blockIdx.y * CHUNK_ROWS;
  if (i >= size) return;
  const wide_int count = chunks - low < CHUNK_ROWS ? chunks - low : CHUNK_ROWS;
  const double* from = sums + (blockIdx.z * chunks + low) * size + i;
  double sum = 0;
  #pragma unroll 8
  for (wide_int chunk = 0; chunk < count; ++chunk) sum += from[chunk * size];
  out[((wide_int)blockIdx.z * gridDim.y + blockIdx.y) * size + i] = sum;
}

// Scales that put the rows and columns of the square of panel blockIdx.y right, ones where it is not of 16 bits.
extern "C" __global__ void set_scales(
    const float* squares, wide_int row, wide_int apart, const double* sums, wide_int features, wide_int is_16_bit,
    double* scales, unsigned char* overflowed) {
  const wide_int i = thread();
  if (i >= features) return;
  const double computed = widened(squares[blockIdx.y * apart + i * row + i]);
  const bool is_finite = computed - computed == 0;
  if (!is_finite) overflowed[blockIdx.y] = 1;
  const double wanted = sums[(blockIdx.y * 2 + 1) * (1 + features) + 1 + i];
  const bool is_usual = is_finite && computed >= LEAST_DIAGONAL;
  scales[blockIdx.y * features + i] = is_16_bit && is_usual ? sqrt(wanted / computed) : 1;
}

// Adds sums of columns, and squares times their scales, of panel after panel to the lower triangle of a matrix.
template <class T> __device__ __forceinline__ void add_squares(
    double* total, wide_int total_row, wide_int features, const T* squares, wide_int row, wide_int apart,
    const double* sums, const double* scales, wide_int panels) {
  const wide_int column = thread(), i = thread_row();
  if (i > features || column > i) return;
  double sum = total[i * total_row + column];
  if (column == 0) {
    for (wide_int panel = 0; panel < panels; ++panel) sum += sums[panel * 2 * (1 + features) + i];
  } else {
    for (wide_int panel = 0; panel < panels; ++panel) {
      const double x = value(squares[panel * apart + (i - 1) * row + column - 1]);
      const double* scale = scales + panel * features - 1;
      sum += sizeof(T) == 4 ? x * scale[i] * scale[column] : x;
    }
  }
  total[i * total_row + column] = sum;
}

// Copies the lower triangle above the diagonal.
extern "C" __global__ void mirror(double* matrix, wide_int matrix_row, wide_int n) {
  const wide_int column = thread();
  if (column >= n) return;
  for (wide_int row = thread_row(); row < column; row += thread_rows())
    matrix[row * matrix_row + column] = matrix[column * matrix_row + row];
}

// Adds one matrix after another to a matrix.
extern "C" __global__ void add_matrices(
    double* total, wide_int total_row, const double* parts, wide_int row, wide_int apart, wide_int n_parts,
    wide_int rows, wide_int columns) {
  const wide_int column = thread();
  if (column >= columns) return;
  for (wide_int i = thread_row(); i < rows; i += thread_rows()) {
    double sum = total[i * total_row + column];
    for (wide_int part = 0; part < n_parts; ++part) sum += parts[part * apart + i * row + column];
    total[i * total_row + column] = sum;
  }
}
"""

_PROBES = r"""
// Each lane hands half of its sums to another and adds those that it is given.
template <int half> __device__ __forceinline__ void fold(double (&sums)[32], int lane) {
  const bool is_upper = lane & half;
  #pragma unroll
  for (int i = 0; i < half; ++i) {
    const double given = is_upper ? sums[i] : sums[i + half], kept = is_upper ? sums[i + half] : sums[i];
    sums[i] = kept + __shfl_xor_sync(0xFFFFFFFFu, given, half);
  }
}

// Products of 4 rows with 8 directions by a warp, each lane with every 32nd column. In the end lane 8 r + k has the sum
// of row r and direction k.
template <class Panel> __device__ __forceinline__ void probe_rows(
    const Panel* slab, wide_int slab_row, wide_int rows, wide_int width, const double* directions,
    wide_int directions_row, wide_int directions_column, wide_int count, double* images) {
  const int lane = threadIdx.x % 32;
  for (wide_int row = thread() / 32 * 4; row < rows; row += warps() * 4) {
    for (wide_int first = 0; first < count; first += 8) {
      double sums[32] = {};
      for (wide_int column = lane; column < width; column += 32) {
        double drawn[8];
        #pragma unroll
        for (int k = 0; k < 8; ++k)
          drawn[k] = first + k < count ? directions[column * directions_row + (first + k) * directions_column] : 0;
        #pragma unroll
        for (int r = 0; r < 4; ++r) {
          const double x = row + r < rows ? (double)value(slab[(row + r) * slab_row + column]) : 0;
          #pragma unroll
          for (int k = 0; k < 8; ++k) sums[8 * r + k] += x * drawn[k];
        }
      }
      fold<16>(sums, lane);
      fold<8>(sums, lane);
      fold<4>(sums, lane);
      fold<2>(sums, lane);
      fold<1>(sums, lane);
      if (row + lane / 8 < rows && first + lane % 8 < count)
        images[(row + lane / 8) * count + first + lane % 8] = sums[0];
    }
  }
}

// Products of columns with the images of the rows of a chunk, two columns a thread: blockIdx.y is the chunk, blockIdx.z
// the panel.
template <class Panel> __device__ __forceinline__ void probe_columns(
    const Panel* slab, wide_int slab_row, wide_int panel_rows, wide_int width, const double* images, wide_int count,
    double* products) {
  const wide_int left = (wide_int)blockIdx.x * 2 * blockDim.x + threadIdx.x, right = left + blockDim.x;
  const wide_int low = (wide_int)blockIdx.y * PROBED_ROWS, start = blockIdx.z * panel_rows + low;
  if (left >= width) return;
  const bool has_right = right < width;
  const wide_int n_rows = panel_rows - low < PROBED_ROWS ? panel_rows - low : PROBED_ROWS;
  double* to = products + ((wide_int)blockIdx.z * gridDim.y + blockIdx.y) * width * count;
  for (wide_int first = 0; first < count; first += 8) {
    double sums[2][8] = {};
    #pragma unroll 4
    for (wide_int row = start; row < start + n_rows; ++row) {
      const double x = value(slab[row * slab_row + left]);
      const double y = has_right ? (double)value(slab[row * slab_row + right]) : 0;
      #pragma unroll
      for (int k = 0; k < 8; ++k) {
        const double image = first + k < count ? images[row * count + first + k] : 0;
        sums[0][k] += x * image;
        sums[1][k] += y * image;
      }
    }
    #pragma unroll
    for (int k = 0; k < 8; ++k) {
      if (first + k >= count) continue;
      to[left * count + first + k] = sums[0][k];
      if (has_right) to[right * count + first + k] = sums[1][k];
    }
  }
}
"""

_FILLING = r"""
// A warp looks at a row, and reads it from the cache when it writes it.
template <class Stored, class Panel> __device__ __forceinline__ void fill_slab(
    const Stored* stored, wide_int stored_row, Panel* slab, wide_int slab_row, wide_int rows, wide_int features,
    unsigned char* flags, double* largest, unsigned char* nonzero, wide_int skip) {
  const int lane = threadIdx.x % 32;
  const unsigned long long beyond = magnitude(LARGEST), infinity = 0x7FF0000000000000ull;
  unsigned long long top = 0;
  for (wide_int row = thread() / 32; row < rows; row += warps()) {
    const Stored* from = stored + row * stored_row;
    Panel* to = slab + row * slab_row;
    const auto first = value(from[0]);
    bool is_nonfinite = false, is_nan = false, is_nonzero = false, differs = false, is_large = false, is_beyond = false;
    for (wide_int column = lane; column < features; column += 32) {
      const auto x = value(from[column]);
      is_nonfinite |= x - x != 0;
      is_nan |= x != x;
      is_nonzero |= x != 0;
      differs |= x != first;
      is_large |= magnitude(from[column]) > beyond;
      is_beyond |= is_inexact(x);
    }
    int found = flags[row];
    if (in_warp(is_nonfinite)) found |= NONFINITE;
    if (!in_warp(is_nonzero)) found |= ZERO;
    if (!in_warp(differs) && features > 1) found |= CONSTANT;
    if (in_warp(is_beyond)) found |= INEXACT;
    if (in_warp(is_large) && !in_warp(is_nan) && !(found & skip)) found |= LARGE;
    const bool counts = !(found & skip);
    if (lane == 0) {
      flags[row] = found;
      to[0] = counts ? one<Panel>() : Panel();
    }
    for (wide_int column = lane; column < features; column += 32) {
      const Stored kept = counts ? from[column] : Stored();
      const auto x = value(kept);
      to[1 + column] = Cast<Panel, Stored>::of(kept);
      if (magnitude(kept) > top) top = magnitude(kept);
      if (x != 0 && !nonzero[column]) nonzero[column] = 1;
    }
  }
  if (top > infinity) top = QUIET_NAN;
  if (top > magnitude(*(volatile double*)largest)) atomicMax((unsigned long long*)largest, top);
}

"""

_FILL = """
extern "C" __global__ void fill_{stored}_{panel}(
    const {stored_c}* stored, wide_int stored_row, {panel_c}* slab, wide_int slab_row, wide_int rows, wide_int features,
    unsigned char* flags, double* largest, unsigned char* nonzero, wide_int skip) {{
  fill_slab(stored, stored_row, slab, slab_row, rows, features, flags, largest, nonzero, skip);
}}
"""

_SUM_COLUMNS = """
extern "C" __global__ void sum_columns_{panel}(
    const {panel_c}* slab, wide_int slab_row, wide_int panel_rows, wide_int width, double* sums) {{
  sum_columns(slab, slab_row, panel_rows, width, sums);
}}
"""

_PROBE = """
extern "C" __global__ void probe_rows_{panel}(
    const {panel_c}* slab, wide_int slab_row, wide_int rows, wide_int width, const double* directions,
    wide_int directions_row, wide_int directions_column, wide_int count, double* images) {{
  probe_rows(slab, slab_row, rows, width, directions, directions_row, directions_column, count, images);
}}

extern "C" __global__ void probe_columns_{panel}(
    const {panel_c}* slab, wide_int slab_row, wide_int panel_rows, wide_int width, const double* images,
    wide_int count, double* products) {{
  probe_columns(slab, slab_row, panel_rows, width, images, count, products);
}}
"""

_ADD_SQUARES = """
extern "C" __global__ void add_squares_{panel}(
    double* total, wide_int total_row, wide_int features, const {panel_c}* squares, wide_int row, wide_int apart,
    const double* sums, const double* scales, wide_int panels) {{
  add_squares(total, total_row, features, squares, row, apart, sums, scales, panels);
}}
"""

_CONSTANTS = {
    "NONFINITE": NONFINITE, "ZERO": ZERO, "CONSTANT": CONSTANT, "LARGE": LARGE, "INEXACT": INEXACT,
    "CHUNK_ROWS": CHUNK_ROWS, "PROBED_ROWS": PROBED_ROWS, "EXACT_INTEGER": f"{EXACT_INTEGER}ll",
    "LARGEST": repr(LARGEST_MAGNITUDE), "LEAST_DIAGONAL": repr(LEAST_DIAGONAL),
    "QUIET_NAN": "0x7FF8000000000000ull",
}  # fmt: skip


def fill_source(stored: str, panel: str) -> str:
    """Return the text of the kernel that looks at rows of a stored type and writes panels of a type."""
    return _text([_FILLING, _of(_FILL, stored, panel)])


def panel_source() -> str:
    """Return the text of the kernels that work on panels and sums."""
    return _text(
        [_ROWS]
        + [_of(_SUM_COLUMNS, panel, panel) for panel in PANEL_TYPES]
        + [_of(_ADD_SQUARES, panel, panel) for panel in ("float32", "float64")]
    )


def probe_source(panel: str) -> str:
    """Return the text of the kernels that multiply panels of a type by a few directions."""
    return _text([_PROBES, _of(_PROBE, panel, panel)])


def _text(kernels: list[str]) -> str:
    constants = "".join(f"#define {name} {number}\n" for name, number in _CONSTANTS.items())
    return constants + _NUMBERS + "".join(kernels)


def _of(template: str, stored: str, panel: str) -> str:
    names = {"stored_c": STORED_TYPES[stored], "panel_c": STORED_TYPES[panel]}
    return template.format(stored=stored, panel=panel, **names)
