// `raw`: the weights as they are, interleaved by panels.
#include <algorithm>
#include <cstring>

#include "c3/codec_table.h"
#include "c3/float_layout.h"

namespace vx {
namespace {

uint64_t panel_bytes(const TileEntry& e) {
  return static_cast<uint64_t>(e.n_cols) * kPanelRows * float_layout(e.dtype).item_bytes();
}

void check_entry(const TileEntry& e) {
  if (e.residual_bytes != 0) broken_tile("a raw tile has a residual");
  if (e.prefix_bytes != e.n_panels() * panel_bytes(e)) broken_tile("size of a raw tile is wrong");
}

void check(const TileView&) {}

template <class Item>
void decode_as(const TileView& tile, Item* out) {
  const TileEntry& e = *tile.entry;
  for (int64_t row = 0; row < e.n_rows; ++row)
    for (int64_t col = 0; col < e.n_cols; ++col) {
      const int64_t at = ((row / kPanelRows) * e.n_cols + col) * kPanelRows + row % kPanelRows;
      std::memcpy(&out[row * e.n_cols + col], tile.prefix + at * sizeof(Item), sizeof(Item));
    }
}

void decode(const TileView& tile, void* out) {
  if (tile.entry->dtype == Dtype::f32)
    decode_as(tile, static_cast<uint32_t*>(out));
  else
    decode_as(tile, static_cast<uint16_t*>(out));
}

void open(const TileView& tile, int64_t panel, PanelReader* reader, PanelScratch&) {
  reader->raw.next = tile.prefix + panel * panel_bytes(*tile.entry);
}

constexpr int64_t kColsAtOnce = 32;  // what is read of a row is a cache line; what is written stays in the L1 cache

template <class Item>
void encode_as(const Weights& weights, std::vector<uint8_t>* bytes) {
  const int64_t panels = (weights.n_rows + kPanelRows - 1) / kPanelRows;
  bytes->assign(panels * weights.n_cols * kPanelRows * sizeof(Item), 0);
  const auto* source = reinterpret_cast<const Item*>(weights.data);
  auto* out = reinterpret_cast<Item*>(bytes->data());
  for (int64_t row0 = 0; row0 < weights.n_rows; row0 += kPanelRows, out += weights.n_cols * kPanelRows)
    for (int64_t col0 = 0; col0 < weights.n_cols; col0 += kColsAtOnce) {
      const int64_t cols = std::min(kColsAtOnce, weights.n_cols - col0);
      for (int64_t row = 0; row < std::min(kPanelRows, weights.n_rows - row0); ++row)
        for (int64_t col = col0; col < col0 + cols; ++col)
          out[col * kPanelRows + row] = source[(row0 + row) * weights.row_stride + col];
    }
}

bool encode(const Weights& weights, EncodedTile* tile) {
  if (weights.dtype == Dtype::f32)
    encode_as<uint32_t>(weights, &tile->prefix);
  else
    encode_as<uint16_t>(weights, &tile->prefix);
  return true;
}

}  // namespace

const TileCodec& raw_codec() {
  static const TileCodec codec{"raw", check_entry, check, decode, open, encode};
  return codec;
}

}  // namespace vx
