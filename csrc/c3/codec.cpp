// The table of codecs and what every user of a tile calls.
#include "c3/codec.h"

#include <iterator>
#include <stdexcept>
#include <string>

#include "c3/codec_table.h"
#include "c3/float_layout.h"

namespace vx {
namespace {

const TileCodec& codec_of(const TileView& tile) {
  const TileCodec* codec = find_codec(static_cast<uint64_t>(tile.entry->codec));
  if (codec == nullptr) broken_tile("codec id " + std::to_string(static_cast<int>(tile.entry->codec)) + " is unknown");
  return *codec;
}

std::vector<uint16_t> upper_halves(const Weights& weights) {
  const auto* wide = reinterpret_cast<const uint32_t*>(weights.data);
  std::vector<uint16_t> narrow(weights.n_rows * weights.n_cols);
  for (int64_t row = 0; row < weights.n_rows; ++row)
    for (int64_t col = 0; col < weights.n_cols; ++col)
      narrow[row * weights.n_cols + col] = static_cast<uint16_t>(wide[row * weights.row_stride + col] >> 16);
  return narrow;
}

bool is_upcast_bf16(const Weights& weights) {
  if (weights.dtype != Dtype::f32) return false;
  const auto* wide = reinterpret_cast<const uint32_t*>(weights.data);
  for (int64_t row = 0; row < weights.n_rows; ++row) {
    uint32_t bits = 0;
    for (int64_t col = 0; col < weights.n_cols; ++col) bits |= wide[row * weights.row_stride + col];
    if ((bits & 0xffff) != 0) return false;
  }
  return true;
}

}  // namespace

void broken_tile(const std::string& rule) { throw std::runtime_error(rule); }

FloatLayout float_layout(Dtype dtype) {
  switch (dtype) {
    case Dtype::bf16:
      return {8, 7};
    case Dtype::f16:
      return {5, 10};
    case Dtype::f32:
      return {8, 23};
  }
  broken_tile("dtype id " + std::to_string(static_cast<int>(dtype)) + " is unknown");
}

const TileCodec* find_codec(uint64_t id) {
  static const TileCodec* const codecs[] = {&raw_codec(), &exact_codec(),   &int8_codec(), &int4_codec(),
                                            &lz4_codec(), &exact12_codec(), &dense_codec()};  // by id
  return id < std::size(codecs) ? codecs[id] : nullptr;
}

void check_tile(const TileView& tile) {
  const TileCodec& codec = codec_of(tile);
  static_cast<void>(float_layout(tile.entry->dtype));
  codec.check_entry(*tile.entry);
  codec.check(tile);
}

void decode_tile(const TileView& tile, void* out) { codec_of(tile).decode(tile, out); }

PanelReader open_panel(const TileView& tile, int64_t panel, PanelScratch& scratch) {
  PanelReader reader{};
  reader.codec = tile.entry->codec;
  reader.dtype = tile.entry->dtype;
  codec_of(tile).open(tile, panel, &reader, scratch);
  return reader;
}

PanelReader open_prefix_panel(const TileView& tile, int64_t panel, PanelScratch& scratch) {
  if (tile.entry->codec != Codec::exact) return open_panel(tile, panel, scratch);
  PanelReader reader{};
  reader.codec = Codec::exact;
  reader.dtype = tile.entry->dtype;
  reader.is_prefix = true;
  open_exact_prefix(tile, panel, &reader.exact_prefix);
  return reader;
}

void encode_tile(const Weights& weights, Codec codec, EncodedTile* tile) {
  if (is_upcast_bf16(weights)) {
    const std::vector<uint16_t> narrow = upper_halves(weights);
    const auto* bytes = reinterpret_cast<const uint8_t*>(narrow.data());
    return encode_tile({bytes, weights.n_cols, weights.n_rows, weights.n_cols, Dtype::bf16}, codec, tile);
  }
  const TileCodec* encoder = find_codec(static_cast<uint64_t>(codec));
  if (encoder == nullptr) broken_tile("codec id " + std::to_string(static_cast<int>(codec)) + " is unknown");
  tile->codec = codec;
  tile->dtype = weights.dtype;
  tile->residual.clear();
  if (encoder->encode(weights, tile)) return;
  tile->codec = Codec::raw;
  tile->dtype = weights.dtype;
  tile->residual.clear();
  raw_codec().encode(weights, tile);
}

EncodedTile encode_tile(const Weights& weights, Codec codec) {
  EncodedTile tile{};
  encode_tile(weights, codec, &tile);
  return tile;
}

}  // namespace vx
