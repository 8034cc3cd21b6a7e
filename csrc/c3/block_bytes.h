// How the encoders of 16-bit weights see a block: its low and high bytes apart, in the vectors that codecs store.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "c3/codec.h"

namespace vx {

// Sixteen bytes at once, in the vector types of GCC and Clang: every processor they know has instructions for them, so
// one text is fast on all of them.
using U8x16 = uint8_t __attribute__((vector_size(16)));
using U16x8 = uint16_t __attribute__((vector_size(16)));

inline U8x16 load_bytes(const void* from) {
  U8x16 v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void store_bytes(void* to, U8x16 v) { std::memcpy(to, &v, sizeof v); }

// Every byte `b`.
inline U8x16 all(uint8_t b) { return U8x16{b, b, b, b, b, b, b, b, b, b, b, b, b, b, b, b}; }

// Every byte shifted by itself.
template <int n>
inline U8x16 shift_right(U8x16 v) {
  return reinterpret_cast<U8x16>(reinterpret_cast<U16x8>(v) >> n) & all(static_cast<uint8_t>(255 >> n));
}
template <int n>
inline U8x16 shift_left(U8x16 v) {
  return reinterpret_cast<U8x16>(reinterpret_cast<U16x8>(v) << n) & all(static_cast<uint8_t>(255 << n));
}

// The bytes of 8 columns x 64 rows, each column in vector byte order; missing rows and columns are zero weights.
struct BlockBytes {
  alignas(16) uint8_t low[kBlockCols][kPanelRows], high[kBlockCols][kPanelRows];
};

// Reads the block of 16-bit weights whose corner is (row0, col0).
void read_block(const Weights& weights, int64_t row0, int64_t col0, BlockBytes& out);

// How many weights of a panel have each exponent (bits 7 to 14) of bf16; those that the tile does not have are left
// out.
std::array<uint32_t, 256> count_exponents(const Weights& weights, int64_t row0);

}  // namespace vx
