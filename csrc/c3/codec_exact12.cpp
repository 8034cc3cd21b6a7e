// `exact12`: structure checks, the plain decoder, the panel reader and the encoder.
#include "c3/codec_exact12.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "c3/block_bytes.h"
#include "c3/codec_table.h"
#include "c3/encode_exact.h"
#include "c3/float_layout.h"

namespace vx {
namespace {

// Where the parts of the prefix start.
struct Parts {
  uint64_t blocks, counts, escapes;
  explicit Parts(const TileEntry& e) {
    const uint64_t n_blocks = static_cast<uint64_t>(e.n_panels()) * e.n_blocks();
    blocks = exact12_table_bytes(e.n_panels());
    counts = blocks + n_blocks * Exact12::kBlockBytes;
    escapes = counts + n_blocks + (n_blocks & 1);
  }
};

void check_entry(const TileEntry& e) {
  if (e.dtype != Dtype::bf16) broken_tile("an exact12 tile holds bf16 only");
  if (e.residual_bytes != 0) broken_tile("an exact12 tile has a residual");
  const uint64_t n_blocks = static_cast<uint64_t>(e.n_panels()) * e.n_blocks();
  if (!fits_entries(e.prefix_bytes, Parts(e).escapes, 2, n_blocks * Exact12::kMaxEscapes))
    broken_tile("size of an exact12 tile is wrong");
}

void check(const TileView& tile) {
  const TileEntry& e = *tile.entry;
  const Parts parts(e);
  const uint8_t* counts = tile.prefix + parts.counts;
  uint64_t n_escapes = 0;
  for (int64_t panel = 0; panel < e.n_panels(); ++panel) {
    const auto header = panel_header<Exact12PanelHeader>(tile, panel);
    if (header.base > 127) broken_tile("the table entry of panel " + std::to_string(panel) + " is not valid");
    uint64_t sum = 0;
    for (int64_t block = 0; block < e.n_blocks(); ++block) sum += *counts++;
    if (sum != header.n_escapes) broken_tile("the escapes of panel " + std::to_string(panel) + " do not add up");
    n_escapes += sum;
  }
  if (e.prefix_bytes != parts.escapes + 2 * n_escapes) broken_tile("the escapes of the panels do not add up");
}

void open(const TileView& tile, int64_t panel, PanelReader* out, PanelScratch&) {
  const TileEntry& e = *tile.entry;
  const Parts parts(e);
  uint64_t before = 0;
  for (int64_t p = 0; p < panel; ++p) before += panel_header<Exact12PanelHeader>(tile, p).n_escapes;
  const uint32_t base = panel_header<Exact12PanelHeader>(tile, panel).base;
  Exact12Panel& reader = out->exact12;
  for (uint32_t nibble = 0; nibble < 16; ++nibble) {
    const uint32_t code = nibble & 7;
    reader.high_bytes[nibble] = static_cast<uint8_t>((nibble >> 3) << 7 | (code ? (base + code) & 127 : 0));
  }
  reader.block = tile.prefix + parts.blocks + panel * e.n_blocks() * Exact12::kBlockBytes;
  reader.n_escapes = tile.prefix + parts.counts + panel * e.n_blocks();
  reader.escapes = tile.prefix + parts.escapes + 2 * before;
}

void decode(const TileView& tile, void* out) {
  const TileEntry& e = *tile.entry;
  auto* weights = static_cast<uint16_t*>(out);
  for (int64_t panel = 0; panel < e.n_panels(); ++panel) {
    PanelReader opened;
    PanelScratch none;
    open(tile, panel, &opened, none);
    Exact12Panel& reader = opened.exact12;
    for (int64_t block = 0; block < e.n_blocks(); ++block) {
      uint16_t values[kBlockCols][kPanelRows];
      for (int col = 0; col < kBlockCols; ++col)
        for (int row = 0; row < kPanelRows; ++row) {
          const int at = byte_of_row(row);
          const int nibble = reader.block[col / 2 * 64 + at] >> (4 * (col % 2)) & 15;
          values[col][row] = static_cast<uint16_t>(reader.high_bytes[nibble] << 8 | reader.block[256 + col * 64 + at]);
        }
      for (int i = 0; i < *reader.n_escapes; ++i, reader.escapes += 2) {
        uint16_t escape;
        std::memcpy(&escape, reader.escapes, sizeof escape);
        uint16_t& value = values[(escape & 511) / kPanelRows][escape % kPanelRows];
        value = static_cast<uint16_t>(value | (escape >> 9) << 8);
      }
      for (int64_t row = 0; row < kPanelRows && panel * kPanelRows + row < e.n_rows; ++row)
        for (int64_t col = 0; col < kBlockCols && block * kBlockCols + col < e.n_cols; ++col)
          weights[(panel * kPanelRows + row) * e.n_cols + block * kBlockCols + col] = values[col][row];
      reader.block += Exact12::kBlockBytes;
      ++reader.n_escapes;
    }
  }
}

// The window with the fewest escapes; the lowest on ties. An upper exponent is that of two exponents.
uint32_t choose_base(const std::array<uint32_t, 256>& exponents) {
  uint32_t best = 0, base = 0;
  for (uint32_t b = 0; b + Exact12::kWindow < 128; ++b) {
    uint32_t covered = 0;
    for (uint32_t e = 2 * (b + 1); e < 2 * (b + 1 + Exact12::kWindow); ++e) covered += exponents[e];
    if (covered > best) {
      best = covered;
      base = b;
    }
  }
  return base;
}

// Returns whether a weight of the block needs an escape.
bool write_block(const BlockBytes& block, uint32_t base, uint8_t* out) {
  const U8x16 window = all(static_cast<uint8_t>(base));
  U8x16 outside{};
  auto nibble = [&](U8x16 high) {
    const U8x16 exponent = high & all(127), code = exponent - window;
    const auto inside = reinterpret_cast<U8x16>(code - all(1) < all(Exact12::kWindow));
    outside |= exponent & ~inside;
    return (shift_right<4>(high) & all(8)) | (code & inside);
  };
  for (int pair = 0; pair < kBlockCols / 2; ++pair)
    for (int at = 0; at < kPanelRows; at += 16) {
      const U8x16 even = nibble(load_bytes(block.high[2 * pair] + at));
      const U8x16 odd = nibble(load_bytes(block.high[2 * pair + 1] + at));
      store_bytes(out + pair * 64 + at, even | shift_left<4>(odd));
    }
  std::memcpy(out + 256, block.low, sizeof block.low);
  uint64_t any[2];
  std::memcpy(any, &outside, sizeof any);
  return (any[0] | any[1]) != 0;
}

// Returns how many; by rising position.
int append_escapes(const BlockBytes& block, uint32_t base, std::vector<uint16_t>& escapes) {
  int n = 0;
  for (int col = 0; col < kBlockCols; ++col)
    for (int row = 0; row < kPanelRows; ++row) {
      const uint32_t exponent = block.high[col][byte_of_row(row)] & 127;
      if (exponent == 0 || exponent - base - 1 < Exact12::kWindow) continue;
      escapes.push_back(static_cast<uint16_t>((col * kPanelRows + row) | exponent << 9));
      ++n;
    }
  return n;
}

bool encode(const Weights& weights, EncodedTile* tile) {
  if (weights.dtype != Dtype::bf16) {
    tile->codec = Codec::exact;
    return encode_exact(weights, tile);
  }
  TileEntry shape{};
  shape.n_rows = static_cast<uint32_t>(weights.n_rows);
  shape.n_cols = static_cast<uint32_t>(weights.n_cols);
  const int64_t panels = shape.n_panels(), blocks = shape.n_blocks();
  const Parts parts(shape);
  std::vector<uint8_t>& out = tile->prefix;
  out.resize(parts.escapes);
  // All between table and padding byte is written below.
  std::memset(out.data(), 0, parts.blocks);
  out.back() = 0;
  std::vector<uint16_t> escapes;
  BlockBytes bytes;
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t row0 = panel * kPanelRows;
    const uint32_t base = choose_base(count_exponents(weights, row0));
    const size_t first = escapes.size();
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t index = panel * blocks + block;
      read_block(weights, row0, block * kBlockCols, bytes);
      const bool escapes_any = write_block(bytes, base, out.data() + parts.blocks + index * Exact12::kBlockBytes);
      const int n = escapes_any ? append_escapes(bytes, base, escapes) : 0;
      if (n > Exact12::kMaxEscapes) return false;
      out[parts.counts + index] = static_cast<uint8_t>(n);
    }
    const Exact12PanelHeader header{base, static_cast<uint32_t>(escapes.size() - first)};
    std::memcpy(out.data() + panel * sizeof header, &header, sizeof header);
  }
  const auto* entries = reinterpret_cast<const uint8_t*>(escapes.data());
  out.insert(out.end(), entries, entries + 2 * escapes.size());
  return out.size() < static_cast<uint64_t>(panels) * weights.n_cols * kPanelRows * sizeof(uint16_t);
}

}  // namespace

const TileCodec& exact12_codec() {
  static const TileCodec codec{"exact12", check_entry, check, decode, open, encode};
  return codec;
}

}  // namespace vx
