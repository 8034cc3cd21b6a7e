// `exact`: structure checks, the plain decoder and the panel reader.
#include "c3/codec_exact.h"

#include <cstring>
#include <string>

#include "c3/codec_table.h"
#include "c3/encode_exact.h"
#include "c3/float_layout.h"

namespace vx {
namespace {

uint32_t read_u32(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

uint16_t read_u16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

void check_sizes(const TileView& tile, uint64_t prefix_bytes, uint64_t residual_bytes) {
  if (tile.entry->prefix_bytes != prefix_bytes || tile.entry->residual_bytes != residual_bytes)
    broken_tile("its ranges hold " + std::to_string(tile.entry->prefix_bytes) + " + " +
                std::to_string(tile.entry->residual_bytes) + " bytes where its structure needs " +
                std::to_string(prefix_bytes) + " + " + std::to_string(residual_bytes));
}

void check_entry(const TileEntry& e) {
  const uint64_t blocks = static_cast<uint64_t>(e.n_panels()) * e.n_blocks();
  const uint64_t prefix = panel_table_bytes(e.n_panels()) + blocks * kPrefixBlockBytes;
  if (!fits_entries(e.prefix_bytes, prefix, 4, blocks * 512)) broken_tile("prefix size is wrong");
  const uint64_t residual = blocks * float_layout(e.dtype).residual_block_bytes() + blocks + (blocks & 1);
  if (!fits_entries(e.residual_bytes, residual, 2, blocks * kMaxNearPerBlock)) broken_tile("residual size is wrong");
}

void check(const TileView& tile) {
  const TileEntry& e = *tile.entry;
  const FloatLayout layout = float_layout(e.dtype);
  const uint64_t panels = e.n_panels(), blocks = e.n_blocks();
  const uint64_t table = panel_table_bytes(panels), planes = panels * blocks;
  const uint32_t max_base = (1u << layout.exponent_bits) - 1 - kWindow;
  uint64_t n_far = 0, n_near = 0;
  for (uint64_t panel = 0; panel < panels; ++panel) {
    const auto header = panel_header<PanelHeader>(tile, panel);
    if (header.base > max_base || header.zero != 0)
      broken_tile("the table entry of panel " + std::to_string(panel) + " is not valid");
    n_far += header.n_far;
    n_near += header.n_near;
  }
  check_sizes(tile, table + planes * kPrefixBlockBytes + 4 * n_far,
              planes * layout.residual_block_bytes() + planes + (planes & 1) + 2 * n_near);
  const uint8_t* far = tile.prefix + table + planes * kPrefixBlockBytes;
  const uint8_t* counts = tile.residual + planes * layout.residual_block_bytes();
  for (uint64_t panel = 0; panel < panels; ++panel) {
    const auto header = panel_header<PanelHeader>(tile, panel);
    int64_t last = -1;
    for (uint32_t i = 0; i < header.n_far; ++i, far += 4) {
      const int64_t position = read_u32(far) & 0xffffff;
      if (position <= last || position >= static_cast<int64_t>(blocks) * 512)
        broken_tile("far escape " + std::to_string(i) + " of panel " + std::to_string(panel) +
                    " is out of order or range");
      last = position;
    }
    uint64_t sum = 0;
    for (uint64_t block = 0; block < blocks; ++block) sum += *counts++;
    if (sum != header.n_near) broken_tile("the near escapes of panel " + std::to_string(panel) + " do not add up");
  }
}

// The fp32 exponent of every code; 0 for code 0.
void widen_codes(Dtype dtype, uint32_t base, uint32_t (&exponents)[8]) {
  for (uint32_t code = 0; code < 8; ++code) {
    const uint32_t exponent = code ? (base + code) & 0xff : 0;
    exponents[code] = dtype == Dtype::f16 && code ? (exponent == 31 ? 255 : (exponent + 112) & 0xff) : exponent;
  }
}

void open(const TileView& tile, int64_t panel, PanelReader* out, PanelScratch&) {
  const TileEntry& e = *tile.entry;
  ExactPanel& reader = out->exact;
  reader = {};
  const FloatLayout layout = float_layout(e.dtype);
  const int64_t panels = e.n_panels(), blocks = e.n_blocks(), planes = panels * blocks;
  uint64_t far_before = 0, near_before = 0;
  for (int64_t p = 0; p < panel; ++p) {
    const auto header = panel_header<PanelHeader>(tile, p);
    far_before += header.n_far;
    near_before += header.n_near;
  }
  const auto header = panel_header<PanelHeader>(tile, panel);
  reader.base = header.base;
  uint32_t exponents[8];
  widen_codes(e.dtype, header.base, exponents);
  for (uint32_t nibble = 0; nibble < 16; ++nibble) {
    const uint32_t exponent = exponents[nibble & 7];
    reader.high_bytes[nibble] = static_cast<uint8_t>((nibble >> 3) << 7 | exponent >> 1);
    reader.low_bytes[nibble] = static_cast<uint8_t>((exponent & 1) << 7);
  }
  reader.n_far = header.n_far;
  const uint8_t* prefix_planes = tile.prefix + panel_table_bytes(panels);
  reader.prefix = prefix_planes + panel * blocks * kPrefixBlockBytes;
  reader.far = prefix_planes + planes * kPrefixBlockBytes + 4 * far_before;
  reader.residual = tile.residual + panel * blocks * layout.residual_block_bytes();
  reader.near_counts = tile.residual + planes * layout.residual_block_bytes() + panel * blocks;
  reader.near = tile.residual + planes * layout.residual_block_bytes() + planes + (planes & 1) + 2 * near_before;
}

// Mantissa bits below the top one, of column `col` and vector byte `at` of one residual block.
uint32_t residual_of(const FloatLayout& layout, const uint8_t* block, int col, int at) {
  const int planes = layout.byte_planes();
  uint32_t value = 0;
  for (int b = 0; b < planes; ++b) value |= uint32_t{block[(col * planes + b) * 64 + at]} << (8 * b);
  const uint8_t* rest = block + kBlockCols * planes * 64;
  uint32_t high;
  if (layout.rest_bits() == 1) {
    high = (rest[at] >> col) & 1u;
  } else {
    const uint8_t* v = rest + (col / 4) * 3 * 64 + at;
    const int j = col % 4;
    high = j < 3 ? v[j * 64] & 0x3fu : (v[0] >> 6) | ((v[64] >> 6) << 2) | ((v[128] >> 6) << 4);
  }
  return value | high << (8 * planes);
}

template <class Item>
void decode_as(const TileView& tile, const FloatLayout& layout, Item* out) {
  const TileEntry& e = *tile.entry;
  const int sign_shift = layout.exponent_bits + layout.mantissa_bits;
  for (int64_t panel = 0; panel < e.n_panels(); ++panel) {
    PanelReader opened;
    PanelScratch none;
    open(tile, panel, &opened, none);
    ExactPanel& reader = opened.exact;
    const int64_t row0 = panel * kPanelRows;
    for (int64_t block = 0; block < e.n_blocks(); ++block) {
      Item weights[kBlockCols * kPanelRows];
      for (int col = 0; col < kBlockCols; ++col) {
        for (int row = 0; row < kPanelRows; ++row) {
          const int at = byte_of_row(row);
          const uint32_t nibble = (reader.prefix[(col / 2) * 64 + at] >> (4 * (col % 2))) & 15u;
          const uint32_t top = (reader.prefix[256 + at] >> col) & 1u;
          const uint32_t code = nibble & 7u;
          const uint32_t exponent = code ? reader.base + code : 0;
          weights[col * kPanelRows + row] =
              static_cast<Item>((nibble >> 3) << sign_shift | exponent << layout.mantissa_bits |
                                top << layout.residual_bits() | residual_of(layout, reader.residual, col, at));
        }
      }
      // An escaped weight has code 0, hence exponent bits of 0 so far.
      auto set_exponent = [&](uint32_t position, uint32_t exponent) {
        const uint32_t mask = (1u << layout.exponent_bits) - 1;
        weights[position] = static_cast<Item>(weights[position] | (exponent & mask) << layout.mantissa_bits);
      };
      for (int i = 0; i < *reader.near_counts; ++i, reader.near += 2) {
        const uint16_t entry = read_u16(reader.near);
        set_exponent(entry & 511u, reader.base - (entry >> 9));
      }
      for (; reader.n_far && (read_u32(reader.far) & 0xffffff) >> 9 == block; --reader.n_far, reader.far += 4) {
        const uint32_t entry = read_u32(reader.far);
        set_exponent(entry & 511u, entry >> 24);
      }
      for (int64_t row = 0; row < kPanelRows && row0 + row < e.n_rows; ++row)
        for (int64_t col = 0; col < kBlockCols && block * kBlockCols + col < e.n_cols; ++col)
          out[(row0 + row) * e.n_cols + block * kBlockCols + col] = weights[col * kPanelRows + row];
      reader.prefix += kPrefixBlockBytes;
      reader.residual += layout.residual_block_bytes();
      ++reader.near_counts;
    }
  }
}

void decode(const TileView& tile, void* out) {
  const FloatLayout layout = float_layout(tile.entry->dtype);
  if (tile.entry->dtype == Dtype::f32)
    decode_as(tile, layout, static_cast<uint32_t*>(out));
  else
    decode_as(tile, layout, static_cast<uint16_t*>(out));
}

}  // namespace

void open_exact_prefix(const TileView& tile, int64_t panel, ExactPrefixPanel* out) {
  const TileEntry& e = *tile.entry;
  ExactPrefixPanel& reader = *out;
  reader = {};
  reader.dtype = e.dtype;
  const int64_t panels = e.n_panels(), blocks = e.n_blocks();
  uint64_t far_before = 0;
  for (int64_t p = 0; p < panel; ++p) far_before += panel_header<PanelHeader>(tile, p).n_far;
  const auto header = panel_header<PanelHeader>(tile, panel);
  uint32_t exponents[8];
  widen_codes(e.dtype, header.base, exponents);
  for (uint32_t nibble = 0; nibble < 16; ++nibble) {
    const uint32_t exponent = exponents[nibble & 7], mantissa = nibble & 7 ? kPrefixTopBit | kPrefixMidpoint : 0;
    reader.high_bytes[nibble] = static_cast<uint8_t>((nibble >> 3) << 7 | exponent >> 1);
    reader.low_bytes[nibble] = static_cast<uint8_t>((exponent & 1) << 7 | mantissa);
  }
  reader.n_far = header.n_far;
  const uint8_t* blocks_at = tile.prefix + panel_table_bytes(panels);
  reader.prefix = blocks_at + panel * blocks * kPrefixBlockBytes;
  reader.far = blocks_at + panels * blocks * kPrefixBlockBytes + 4 * far_before;
}

const TileCodec& exact_codec() {
  static const TileCodec codec{"exact", check_entry, check, decode, open, encode_exact};
  return codec;
}

}  // namespace vx
