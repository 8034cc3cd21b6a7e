// `dense`: a length-limited Huffman code of one byte a weight, the rest of the weight as it is. FORMAT.md, section 5.
#pragma once

#include <cstdint>
#include <vector>

#include "c3/codec.h"

namespace vx::dense {

constexpr int kSymbols = 256;
constexpr int kMaxLength = 11;  // bits of a code word
constexpr int kStreams = 4;     // of a panel: their decoding overlaps
constexpr int64_t kLengthBytes = kSymbols / 2;
constexpr int64_t kPanelEntryBytes = kStreams * sizeof(uint32_t);

// First column of a panel's stream; stream kStreams is the end.
constexpr int64_t first_column(int64_t stream, int64_t n_cols) { return stream * n_cols / kStreams; }

// Rows of a panel that are stored: those that the tile has.
constexpr int64_t stored_rows(int64_t panel, int64_t n_rows) {
  return n_rows - panel * kPanelRows < kPanelRows ? n_rows - panel * kPanelRows : kPanelRows;
}

// Canonical code words of a complete code, first bit lowest.
void code_words(const uint8_t (&lengths)[kSymbols], uint16_t (&words)[kSymbols]);

// The byte of a 16-bit weight (the upper half of an fp32) that is coded, and the byte that is not: a bf16's exponent is
// one byte; an fp16's needs sign and two mantissa bits to make one.
constexpr uint8_t coded_byte(uint16_t w, bool f16) { return static_cast<uint8_t>(f16 ? w >> 8 : w >> 7); }
constexpr uint8_t plain_byte(uint16_t w, bool f16) {
  return static_cast<uint8_t>(f16 ? w : (w >> 8 & 0x80) | (w & 0x7f));
}
constexpr uint16_t join_bytes(uint8_t coded, uint8_t plain, bool f16) {
  return static_cast<uint16_t>(f16 ? coded << 8 | plain : (plain & 0x80) << 8 | coded << 7 | (plain & 0x7f));
}

bool encode(const Weights& weights, EncodedTile* tile);

}  // namespace vx::dense
