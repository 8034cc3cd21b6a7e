// A tile: a rectangle of one weight matrix, encoded alone. The unit of I/O, caching, checksum and kernel work.
// csrc/c3/FORMAT.md specifies the bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vx {

constexpr int64_t kPanelRows = 64;            // output rows interleaved in a panel
constexpr int64_t kBlockCols = 8;             // columns of a panel encoded together
constexpr int64_t kAlignment = 4096;          // file offset of every range; unit of O_DIRECT
constexpr uint64_t kMaxTileBytes = 1u << 20;  // stored bytes of one tile, both ranges, alignment included

enum class Codec : uint8_t { raw = 0, exact = 1, int8 = 2, int4 = 3, lz4 = 4, exact12 = 5, dense = 6 };
enum class Dtype : uint8_t { bf16 = 1, f16 = 2, f32 = 3 };

constexpr uint64_t align_up(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// One row of W.c3_index after it was checked against the file and the matrix; offsets are absolute in the shard.
struct TileEntry {
  uint64_t prefix_offset, residual_offset;  // multiples of kAlignment
  uint32_t prefix_bytes, residual_bytes;    // exact sizes; reads are rounded up to kAlignment
  uint32_t prefix_crc, residual_crc;        // crc32c of the exact bytes
  Codec codec;
  Dtype dtype;         // of the encoded weights
  Dtype source_dtype;  // of the checkpoint: f32 where it holds upcast bf16
  uint32_t row0, n_rows, col0, n_cols;

  int64_t n_panels() const { return (n_rows + kPanelRows - 1) / kPanelRows; }
  int64_t n_blocks() const { return (n_cols + kBlockCols - 1) / kBlockCols; }  // per panel
  uint64_t stored_bytes() const { return align_up(prefix_bytes) + align_up(residual_bytes); }
};

// Bytes of a tile that are in memory now. residual is null when residual_bytes is 0.
struct TileView {
  const TileEntry* entry;
  const uint8_t* prefix;
  const uint8_t* residual;
};

// Throws std::runtime_error with the broken rule when the bytes do not have the structure their entry promises; after
// it, decoding reads nothing outside the two ranges whatever they hold. Checksums are the pager's business.
void check_tile(const TileView& tile);

}  // namespace vx
