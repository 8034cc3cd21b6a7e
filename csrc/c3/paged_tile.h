// The pager's record of one tile; its states are described at Pager.
#pragma once

#include <atomic>
#include <cstdint>

namespace vx {

enum class TileStatus : uint8_t { absent, loading, ready, failed };

// What an acquire may do without the lock; only resident tiles leave `locked`. Who took a pin must look again: only if
// it is not `locked` now will the tile stay.
enum class FastPath : uint8_t {
  locked,
  ready,
  prefetched,  // ready, and the next acquire is the first use of a prefetch
};

// Memory that a resident tile has until it makes room for another, which then takes it over.
struct Frame {
  uint8_t* memory = nullptr;
  uint64_t bytes = 0;
  bool charged = false;  // was filled once: counts as held from then on
};

struct PagedTile {
  std::atomic<int32_t> pins{0};
  std::atomic<FastPath> fast{FastPath::locked};
  TileStatus status = TileStatus::absent;
  bool resident = false;
  bool prefix_kept = false;    // its prefix has memory of its own: only the residual takes a frame or a slot
  bool prefix_loaded = false;  // and was read into it
  bool prefix_charged = false;
  bool trusted = true;      // the last prefetch of it was used: worth another
  bool prefetched = false;  // the bytes here were read ahead and not used yet
  int slot = -1;
  int matrix = -1;
  int64_t position = -1;  // in the sweep, or -1
  int64_t rank = -1;      // among the missing tiles of the sweep, or -1
  Frame frame;            // of a resident tile
  uint8_t* prefix = nullptr;
  uint8_t* residual = nullptr;  // only of a tile that has one
};

}  // namespace vx
