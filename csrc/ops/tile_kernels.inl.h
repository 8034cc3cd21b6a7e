// Kernel text of tile_kernels.h, compiled once per SIMD level.
#include <cstdint>
#include <cstring>

#include "common/simd.h"
#include "ops/tile_bytes.inl.h"
#include "ops/tile_kernels.h"

namespace vx::VX_SIMD_NS {

template <Dtype D>
constexpr int64_t kResidualBlockBytes = D == Dtype::f32   ? 1408
                                        : D == Dtype::f16 ? 576
                                                          : 384;

// Column Col of one block: the bytes of its 64 fp32 patterns, most significant first, interleaved into `out`.
template <Dtype D, int Col>
VX_INLINE void decode_column(const uint8_t* prefix, const uint8_t* residual, u8x64 top_bits, Lut lut_high, Lut lut_low,
                             float* out) {
  constexpr int kBytePlanes = D == Dtype::f32 ? 2 : D == Dtype::f16 ? 1 : 0;
  const uint8_t* rest = residual + kBlockCols * kBytePlanes * 64;
  const u8x64 pair = load_bytes(prefix + (Col / 2) * 64);
  const u8x64 nibble = Col % 2 == 0 ? band(pair, 0x0f) : shr<4>(pair, 0x0f);
  const u8x64 high = lookup(lut_high, nibble);
  u8x64 low = lookup(lut_low, nibble);
  if constexpr (Col < 7)
    low = bor(low, shl<6 - Col>(top_bits, 0x40));
  else
    low = bor(low, shr<1>(top_bits, 0x40));
  if constexpr (D == Dtype::f16) {
    const u8x64 bits = load_bytes(residual + Col * 64), ninth = load_bytes(rest);
    if constexpr (Col <= 5)
      low = bor(low, shl<5 - Col>(ninth, 0x20));
    else
      low = bor(low, shr<Col - 5>(ninth, 0x20));
    low = bor(low, shr<3>(bits, 0x1f));
    emit(out, high, low, shl<5>(bits, 0xe0), zero_bytes());
  } else {
    const uint8_t* v = rest + (Col / 4) * 3 * 64;
    if constexpr (Col % 4 < 3)
      low = bor(low, band(load_bytes(v + (Col % 4) * 64), 0x3f));
    else
      low = bor(low, bor(shr<6>(load_bytes(v), 0x03),
                         bor(shr<4>(load_bytes(v + 64), 0x0c), shr<2>(load_bytes(v + 128), 0x30))));
    if constexpr (D == Dtype::f32)
      emit(out, high, low, load_bytes(residual + (Col * 2 + 1) * 64), load_bytes(residual + Col * 2 * 64));
    else
      emit(out, high, low);
  }
}

// Hardware prefetchers stop at page borders and see one stream of many: ask for the bytes of four chunks ahead.
constexpr int64_t kPrefetchBlocks = 16;

template <Dtype D>
VX_INLINE void decode_block(const uint8_t* prefix, const uint8_t* residual, Lut lut_high, Lut lut_low, float* out) {
  for (int64_t line = 0; line < kPrefixBlockBytes; line += 64)
    __builtin_prefetch(prefix + kPrefetchBlocks * kPrefixBlockBytes + line);
  for (int64_t line = 0; line < kResidualBlockBytes<D>; line += 64)
    __builtin_prefetch(residual + kPrefetchBlocks * kResidualBlockBytes<D> + line);
  const u8x64 top = load_bytes(prefix + 256);
  decode_column<D, 0>(prefix, residual, top, lut_high, lut_low, out);
  decode_column<D, 1>(prefix, residual, top, lut_high, lut_low, out + 64);
  decode_column<D, 2>(prefix, residual, top, lut_high, lut_low, out + 128);
  decode_column<D, 3>(prefix, residual, top, lut_high, lut_low, out + 192);
  decode_column<D, 4>(prefix, residual, top, lut_high, lut_low, out + 256);
  decode_column<D, 5>(prefix, residual, top, lut_high, lut_low, out + 320);
  decode_column<D, 6>(prefix, residual, top, lut_high, lut_low, out + 384);
  decode_column<D, 7>(prefix, residual, top, lut_high, lut_low, out + 448);
}

// An escaped weight decodes with exponent 0, so its true exponent is OR-ed in. A subnormal f16 is mantissa * 2^-24,
// which fp32 holds as a normal number.
template <Dtype D>
VX_INLINE void patch(float* out, uint32_t position, uint32_t exponent) {
  uint32_t bits;
  std::memcpy(&bits, out + position, 4);
  if constexpr (D == Dtype::f16) {
    exponent &= 31;
    if (exponent == 0) {
      const float value = static_cast<float>((bits >> 13) & 0x3ff) * 0x1p-24f;
      uint32_t magnitude;
      std::memcpy(&magnitude, &value, 4);
      bits = (bits & 0x80000000u) | magnitude;
    } else {
      bits |= (exponent == 31 ? 255 : exponent + 112) << 23;
    }
  } else {
    bits |= exponent << 23;
  }
  std::memcpy(out + position, &bits, 4);
}

// between(b) is called after block b is decoded and before its escapes are: other work for the idle execution units.
template <Dtype D, class Between>
VX_INLINE void decode_exact(PanelReader& reader, int64_t n_cols, float* out, Between&& between) {
  const Lut lut_high = load_lut(reader.high_bytes), lut_low = load_lut(reader.low_bytes);
  const int64_t n_blocks = (n_cols + kBlockCols - 1) / kBlockCols;
  // A chunk always has room for whole blocks: the columns past the end decode to zero weights nobody reads.
  for (int64_t b = 0; b < n_blocks; ++b) {
    decode_block<D>(reader.prefix + b * kPrefixBlockBytes, reader.residual + b * kResidualBlockBytes<D>, lut_high,
                    lut_low, out + b * 512);
    between(b);
  }
  const uint8_t* near = reader.near;
  const uint32_t base = reader.base;
  for (int64_t b = 0; b < n_blocks; ++b) {
    const uint8_t* end = near + 2 * reader.near_counts[b];
    for (; near != end; near += 2) {
      uint16_t entry;
      std::memcpy(&entry, near, 2);
      patch<D>(out + b * 512, entry & 511u, base - (entry >> 9));
    }
  }
  reader.near = near;
  for (; reader.n_far; --reader.n_far, reader.far += 4) {
    uint32_t entry;
    std::memcpy(&entry, reader.far, 4);
    const uint32_t position = entry & 0xffffff;
    if ((position >> 9) >= reader.block + n_blocks) break;
    patch<D>(out + (position - reader.block * 512), 0, entry >> 24);
  }
  reader.prefix += n_blocks * kPrefixBlockBytes;
  reader.residual += n_blocks * kResidualBlockBytes<D>;
  reader.near_counts += n_blocks;
  reader.block += static_cast<uint32_t>(n_blocks);
}

VX_INLINE float half_to_float(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half & 0x8000u) << 16 | static_cast<uint32_t>(half & 0x3ffu) << 13;
  float value;
  std::memcpy(&value, &bits, 4);
  patch<Dtype::f16>(&value, 0, (half >> 10) & 31u);
  return value;
}

VX_INLINE void decode_raw(PanelReader& reader, int64_t n_cols, float* out) {
  const int64_t n = n_cols * kPanelRows;
  if (reader.dtype == Dtype::f32) {
    std::memcpy(out, reader.prefix, n * 4);
    reader.prefix += n * 4;
    return;
  }
  if (reader.dtype == Dtype::bf16) {
    for (int64_t i = 0; i < n; i += kLanes) {
      __builtin_prefetch(reader.prefix + 2 * i + kPrefetchBlocks * 1024);
      widen_bf16(reader.prefix + 2 * i, out + i);
    }
  } else {
    for (int64_t i = 0; i < n; ++i) {
      uint16_t half;
      std::memcpy(&half, reader.prefix + 2 * i, 2);
      out[i] = half_to_float(half);
    }
  }
  reader.prefix += n * 2;
}

struct Nothing {
  inline __attribute__((always_inline)) void operator()(int64_t) const {}
};

template <class Between>
VX_INLINE void decode_chunk(PanelReader& reader, int64_t n_cols, float* out, Between&& between) {
  if (reader.codec == Codec::raw) {
    decode_raw(reader, n_cols, out);
    for (int64_t b = 0; b < (n_cols + kBlockCols - 1) / kBlockCols; ++b) between(b);
  } else if (reader.dtype == Dtype::bf16) {
    decode_exact<Dtype::bf16>(reader, n_cols, out, between);
  } else if (reader.dtype == Dtype::f16) {
    decode_exact<Dtype::f16>(reader, n_cols, out, between);
  } else {
    decode_exact<Dtype::f32>(reader, n_cols, out, between);
  }
}

static void decode(PanelReader& reader, int64_t n_cols, float* out) { decode_chunk(reader, n_cols, out, Nothing{}); }

// R activation rows x V vectors of output rows live in registers while the chunk's columns stream past.
template <int R, int V>
VX_INLINE void accumulate_block(const float* weights, int64_t n_cols, const float* x, int64_t x_stride, float* acc) {
  f32x16 sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = load(acc + r * kPanelRows + v * kLanes);
  for (int64_t col = 0; col < n_cols; ++col) {
    f32x16 w[V];
    for (int v = 0; v < V; ++v) w[v] = load(weights + col * kPanelRows + v * kLanes);
    for (int r = 0; r < R; ++r) {
      const f32x16 value = set1(x[r * x_stride + col]);
      for (int v = 0; v < V; ++v) sum[r][v] = fma(w[v], value, sum[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(acc + r * kPanelRows + v * kLanes, sum[r][v]);
}

template <int R, int V>
VX_INLINE void accumulate_rows(const float* weights, int64_t n_cols, const float* x, int64_t x_stride, float* acc) {
  for (int part = 0; part < 4; part += V)
    accumulate_block<R, V>(weights + part * kLanes, n_cols, x, x_stride, acc + part * kLanes);
}

static void accumulate(const float* weights, int64_t n_cols, const float* x, int64_t x_stride, int64_t n_rows,
                       float* acc) {
  // Most rows whose sums fit the level's registers: 32 of 16 lanes, 16 of 8, or memory.
#if defined(VX_LEVEL_AVX512)
  constexpr int kRows = 6, kVectors = 4;
#else
  constexpr int kRows = 3, kVectors = 2;
#endif
  int64_t m = 0;
  const int64_t groups = (n_rows + kRows - 1) / kRows;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t rows = (n_rows - m + groups - g - 1) / (groups - g);
    const float* xs = x + m * x_stride;
    float* a = acc + m * kPanelRows;
    switch (rows) {
#if defined(VX_LEVEL_AVX512)
      case 6:
        accumulate_rows<6, kVectors>(weights, n_cols, xs, x_stride, a);
        break;
      case 5:
        accumulate_rows<5, kVectors>(weights, n_cols, xs, x_stride, a);
        break;
      case 4:
        accumulate_rows<4, kVectors>(weights, n_cols, xs, x_stride, a);
        break;
#endif
      case 3:
        accumulate_rows<3, kVectors>(weights, n_cols, xs, x_stride, a);
        break;
      case 2:
        accumulate_rows<2, kVectors>(weights, n_cols, xs, x_stride, a);
        break;
      default:
        accumulate_rows<1, 4>(weights, n_cols, xs, x_stride, a);
    }
    m += rows;
  }
}

// One row: its four chains wait for each other's latency, so the next chunk is decoded between their steps.
static void multiply_row(PanelReader& reader, int64_t n_cols, const float* x, float* acc, float* scratch) {
  f32x16 sum[4];
  for (int v = 0; v < 4; ++v) sum[v] = load(acc + v * kLanes);
  const float* weights = scratch;  // decoded, columns [col, col + width) of x
  int64_t col = 0, width = 0;
  auto step = [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const f32x16 value = set1(x[col + c]);
      for (int v = 0; v < 4; ++v) sum[v] = fma(load(weights + c * kPanelRows + v * kLanes), value, sum[v]);
    }
  };
  for (int64_t next = 0; next < n_cols;) {
    const int64_t next_width = n_cols - next < kChunkCols ? n_cols - next : kChunkCols;
    float* out = scratch + (weights == scratch ? kChunkCols * kPanelRows : 0);
    int64_t done = 0;
    decode_chunk(reader, next_width, out, [&](int64_t) {
      const int64_t end = done + kBlockCols < width ? done + kBlockCols : width;
      step(done, end);
      done = end;
    });
    step(done, width);
    weights = out;
    col = next;
    width = next_width;
    next += next_width;
  }
  step(0, width);
  for (int v = 0; v < 4; ++v) store(acc + v * kLanes, sum[v]);
}

static void multiply(PanelReader& reader, int64_t n_cols, const float* x, int64_t x_stride, int64_t n_rows, float* acc,
                     float* scratch) {
  if (n_rows == 1) return multiply_row(reader, n_cols, x, acc, scratch);
  for (int64_t col = 0; col < n_cols; col += kChunkCols) {
    const int64_t width = n_cols - col < kChunkCols ? n_cols - col : kChunkCols;
    decode(reader, width, scratch);
    accumulate(scratch, width, x + col, x_stride, n_rows, acc);
  }
}

static constexpr TileKernels kTileKernels{decode, multiply};

}  // namespace vx::VX_SIMD_NS
