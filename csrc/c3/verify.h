// Checks every tile of a shard file at the disk's rate and names all that are damaged, not only the first.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "c3/shard_file.h"

namespace vx {

struct VerifiedMatrix {
  std::string name;
  uint64_t base_offset;   // of W.c3 in the file
  const uint64_t* index;  // [n_tiles, 8], any values
  int64_t n_tiles;
};

struct BadTile {
  std::string tensor;
  int64_t tile;  // -1: the index as a whole
  uint64_t offset;
  std::string reason;
};

struct ShardVerdict {
  uint64_t bytes_read;
  IoMode io_mode;
  std::vector<BadTile> bad;  // by matrix, then tile
};

// file_bytes: what the file must have; tiles that a shorter one lost are bad. n_threads workers read and check spans of
// several MiB each, so that many reads are in flight. progress is called on the calling thread with the bytes checked
// so far; what it throws ends the work. Throws MachineFailure when the file cannot be opened; a read that fails makes
// bad only the tiles that cannot be read alone either.
ShardVerdict verify_shard(const std::string& path, uint64_t file_bytes, const std::vector<VerifiedMatrix>& matrices,
                          int n_threads, const std::function<void(uint64_t)>& progress = nullptr);

}  // namespace vx
