// The layout of `exact12` tiles (FORMAT.md section 5), shared by its encoder, its decoder and its kernels.
#pragma once

#include <cstdint>

#include "c3/tile.h"

namespace vx {

struct Exact12 {
  static constexpr int64_t kBlockBytes = 768;  // 4 vectors of nibbles, then the low byte of every weight
  static constexpr uint32_t kWindow = 7;       // upper exponents base+1 … base+7 have codes 1 … 7
  static constexpr int kMaxEscapes = 255;      // of a block
};

struct Exact12PanelHeader {
  uint32_t base, n_escapes;
};
static_assert(sizeof(Exact12PanelHeader) == 8);

constexpr uint64_t exact12_table_bytes(int64_t n_panels) { return (n_panels * 8 + 63) / 64 * 64; }

struct Exact12Panel {
  alignas(16) uint8_t high_bytes[16];  // by nibble: the high byte of a bf16
  const uint8_t* block;                // next block
  const uint8_t* n_escapes;            // of the next block
  const uint8_t* escapes;              // u16 entries not yet consumed
};

}  // namespace vx
