// Decoding `exact` tiles to fp32. Kernel text: compiled once per SIMD level.
#pragma once

#include <cstdint>
#include <cstring>

#include "c3/codec_exact.h"
#include "ops/tile_bytes.inl.h"

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
    bits |= (exponent & 255) << 23;
  }
  std::memcpy(out + position, &bits, 4);
}

// between(b) is called after block b is decoded and before its escapes are: other work for the idle execution units.
template <Dtype D, class Between>
VX_INLINE void decode_exact(ExactPanel& reader, int64_t n_cols, float* out, Between&& between) {
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

}  // namespace vx::VX_SIMD_NS
