// What a codec brings: the rows of this table are all that the rest of the code knows of codecs.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "c3/codec.h"

namespace vx {

struct TileCodec {
  const char* name;
  // Throws std::runtime_error with the broken rule when the sizes of an index row cannot be this codec's. All other
  // fields of the row are checked already.
  void (*check_entry)(const TileEntry& entry);
  // As check_tile, whose sizes check_entry has seen.
  void (*check)(const TileView& tile);
  void (*decode)(const TileView& tile, void* out);
  void (*open)(const TileView& tile, int64_t panel, PanelReader* reader, PanelScratch& scratch);
  // False when the tile is to be stored raw. Weights of dtype f32 are not upcast bf16. A codec that does not take a
  // dtype may name another one in tile->codec. The prefix may hold an earlier tile's bytes; the residual is empty.
  bool (*encode)(const Weights& weights, EncodedTile* tile);
};

const TileCodec& raw_codec();
const TileCodec& exact_codec();
const TileCodec& int8_codec();
const TileCodec& int4_codec();
const TileCodec& lz4_codec();
const TileCodec& exact12_codec();
const TileCodec& dense_codec();

// nullptr for an unknown id.
const TileCodec* find_codec(uint64_t id);

[[noreturn]] void broken_tile(const std::string& rule);

// The entry of `panel` in the table of Headers that a tile's prefix starts with.
template <class Header>
Header panel_header(const TileView& tile, int64_t panel) {
  Header header;
  std::memcpy(&header, tile.prefix + panel * sizeof header, sizeof header);
  return header;
}

// True when `bytes` is `fixed` and at most max_entries entries.
constexpr bool fits_entries(uint64_t bytes, uint64_t fixed, uint64_t entry, uint64_t max_entries) {
  return bytes >= fixed && (bytes - fixed) % entry == 0 && (bytes - fixed) / entry <= max_entries;
}

}  // namespace vx
