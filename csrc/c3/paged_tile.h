// The pager's record of one tile; its states are described at Pager.
#pragma once

#include <atomic>
#include <cstdint>

namespace vx {

enum class TileStatus : uint8_t { absent, loading, ready, failed };

// What an acquire may do without the lock; only resident tiles leave `locked`.
enum class FastPath : uint8_t {
  locked,
  ready,
  prefetched,  // ready, and the next acquire is the first use of a prefetch
};

struct PagedTile {
  std::atomic<int32_t> pins{0};
  std::atomic<FastPath> fast{FastPath::locked};
  TileStatus status = TileStatus::absent;
  bool resident = false;
  bool prefix_kept = false;    // passes through a slot with its residual only: the prefix has memory of its own
  bool prefix_loaded = false;  // and was read into it; it stays for ever
  bool prefetched = false;     // the bytes here were read ahead and not used yet
  bool charged = false;        // memory of its own was filled once
  int slot = -1;
  int matrix = -1;
  int64_t position = -1;  // in the sweep, or -1
  int64_t rank = -1;      // among the missing tiles of the sweep, or -1
  uint8_t* prefix = nullptr;
  uint8_t* residual = nullptr;  // only of a tile that has one
};

}  // namespace vx
