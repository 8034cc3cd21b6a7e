// `int8` and `int4`: structure checks, the plain decoder and the panel reader.
#include "c3/codec_int.h"

#include <cmath>
#include <cstring>
#include <string>

#include "c3/codec_table.h"
#include "c3/encode_int.h"

namespace vx {
namespace {

template <int kBits>
int64_t panel_bytes(const TileEntry& e) {
  return kIntHeaderBytes + n_int_groups(e.n_cols) * IntLayout<kBits>::kGroupBytes;
}

template <int kBits>
void check_entry(const TileEntry& e) {
  if (e.dtype != Dtype::f32) broken_tile("an integer tile decodes to f32 only");
  if (e.col0 % kGroupCols != 0) broken_tile("an integer tile does not start at a group of 32 columns");
  if (e.residual_bytes != 0) broken_tile("an integer tile has a residual");
  if (e.prefix_bytes != static_cast<uint64_t>(e.n_panels() * panel_bytes<kBits>(e)))
    broken_tile("size of an integer tile is wrong");
}

template <int kBits>
void check(const TileView& tile) {
  for (int64_t panel = 0; panel < tile.entry->n_panels(); ++panel) {
    float units[kPanelRows];
    std::memcpy(units, tile.prefix + panel * panel_bytes<kBits>(*tile.entry), sizeof units);
    for (const float unit : units)
      if (!std::isfinite(unit) || unit < 0)
        broken_tile("a row unit of panel " + std::to_string(panel) + " is not valid");
  }
}

template <int kBits>
void open(const TileView& tile, int64_t panel, PanelReader* reader, PanelScratch&) {
  const uint8_t* begin = tile.prefix + panel * panel_bytes<kBits>(*tile.entry);
  reader->integer = {reinterpret_cast<const float*>(begin), begin + kIntHeaderBytes};
}

template <int kBits>
void decode(const TileView& tile, void* out) {
  using Layout = IntLayout<kBits>;
  const TileEntry& e = *tile.entry;
  auto* values = static_cast<float*>(out);
  for (int64_t row = 0; row < e.n_rows; ++row) {
    const uint8_t* panel = tile.prefix + row / kPanelRows * panel_bytes<kBits>(e);
    const int64_t lane = row % kPanelRows;
    float unit;
    std::memcpy(&unit, panel + 4 * lane, 4);
    for (int64_t col = 0; col < e.n_cols; ++col) {
      const uint8_t* group = panel + kIntHeaderBytes + col / kGroupCols * Layout::kGroupBytes;
      const int64_t place = col % kGroupCols;
      uint32_t word;
      std::memcpy(&word, group + Layout::kParameterBytes + (place / Layout::kPerLane * kPanelRows + lane) * 4, 4);
      const uint32_t u = word >> (kBits * (place % Layout::kPerLane)) & ((1u << kBits) - 1);
      const float zero = kBits == 4 ? static_cast<float>(group[kPanelRows + lane]) * kInt4ZeroStep : kInt8Zero;
      values[row * e.n_cols + col] = unit * static_cast<float>(group[lane]) * (static_cast<float>(u) - zero);
    }
  }
}

}  // namespace

const TileCodec& int8_codec() {
  static const TileCodec codec{"int8", check_entry<8>, check<8>, decode<8>, open<8>, encode_int8};
  return codec;
}

const TileCodec& int4_codec() {
  static const TileCodec codec{"int4", check_entry<4>, check<4>, decode<4>, open<4>, encode_int4};
  return codec;
}

}  // namespace vx
