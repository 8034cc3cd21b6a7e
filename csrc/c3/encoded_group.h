// The tiles of a group, encoded and laid out as a shard stores them: all prefixes, then all residuals, each padded to
// the alignment (FORMAT.md section 3).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "c3/codec.h"
#include "common/thread_pool.h"

namespace vx {

// Keeps its memory from group to group, so that the pages of a packing are touched for the first time once, not for
// every group.
class EncodedGroup {
 public:
  struct Tile {
    EncodedTile encoded;  // ranges padded
    uint32_t prefix_bytes, residual_bytes, prefix_crc, residual_crc;
  };
  using Rectangle = std::array<int64_t, 4>;  // row0, n_rows, col0, n_cols

  // Replaces the group by the rectangles of `slab`, which must lie inside it; one tile a thread at a time.
  void encode(ThreadPool& threads, const Weights& slab, Codec codec, const std::vector<Rectangle>& rectangles);

  int64_t size() const { return n_tiles_; }
  const Tile& tile(int64_t i) const { return tiles_[i]; }

  // The crc32c of what was written before followed by the group's bytes, padding included.
  uint32_t extend_crc(uint32_t crc) const;

 private:
  std::vector<Tile> tiles_;  // the first n_tiles_ are the group's
  int64_t n_tiles_ = 0;
};

}  // namespace vx
