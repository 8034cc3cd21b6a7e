// Reads the rows of W.c3_index (FORMAT.md): nothing after this has to ask whether an offset or a size is sane.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "c3/tile.h"

namespace vx {

constexpr int kIndexColumns = 8;  // u64 words of a row

struct TileIndex {
  int64_t rows, cols;  // of the matrix, which the tiles cover exactly
  std::vector<TileEntry> tiles;
};

// index: u64 [n_tiles, kIndexColumns], any values. base_offset: where W.c3 starts in the file of file_bytes bytes.
// Throws CorruptTile naming file, tensor and tile for the first row that cannot be true.
TileIndex parse_tile_index(const std::string& file, const std::string& tensor, uint64_t file_bytes,
                           uint64_t base_offset, const uint64_t* index, int64_t n_tiles);

}  // namespace vx
