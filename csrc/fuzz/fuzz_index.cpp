// Any words as an index tensor: what parse_tile_index accepts lies in the file, overlaps nothing and covers the matrix.
#include <algorithm>

#include "c3/tile_index.h"
#include "common/errors.h"
#include "fuzz/seeds.h"
#include "fuzz/target.h"

namespace {

using namespace vx;
using namespace vx::fuzz;

void check_index(const TileIndex& index, uint64_t file_bytes, uint64_t base_offset) {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  uint64_t n_weights = 0;
  for (const TileEntry& e : index.tiles) {
    for (const auto& [offset, n] :
         {std::pair{e.prefix_offset, e.prefix_bytes}, {e.residual_offset, e.residual_bytes}}) {
      if (n == 0) continue;
      check(offset % kAlignment == 0 && offset >= base_offset, "a range is aligned and inside its tensor");
      check(offset <= file_bytes && n <= file_bytes - offset, "a range is inside the file");
      ranges.push_back({offset, offset + n});
    }
    check(e.stored_bytes() <= kMaxTileBytes && e.prefix_bytes > 0, "a tile has 1 byte to 1 MiB");
    check(find_codec(static_cast<uint64_t>(e.codec)) != nullptr, "the codec is known");
    check(e.n_rows > 0 && e.n_cols > 0, "a tile holds weights");
    check(int64_t{e.row0} + e.n_rows <= index.rows && int64_t{e.col0} + e.n_cols <= index.cols, "a tile is inside");
    n_weights += uint64_t{e.n_rows} * e.n_cols;
  }
  check(n_weights == static_cast<uint64_t>(index.rows) * static_cast<uint64_t>(index.cols), "tiles cover the matrix");
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) check(ranges[i - 1].second <= ranges[i].first, "ranges do not overlap");
}

}  // namespace

// File size, offset of the tensor, rows.
std::vector<Input> vx::fuzz::seeds() {
  std::vector<Input> out;
  for (const uint32_t n_tiles : {1, 2, 5}) {
    const SeedShard shard = seed_shard(known_codecs(), n_tiles, 40);
    for (const SeedMatrix& m : shard.matrices) {
      Input input;
      put(&input, static_cast<uint64_t>(shard.bytes.size()));
      put(&input, m.base_offset);
      for (const uint64_t word : m.index) put(&input, word);
      out.push_back(std::move(input));
    }
  }
  return out;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Reader in(data, size);
  const uint64_t file_bytes = in.take<uint64_t>(), base_offset = in.take<uint64_t>();
  std::vector<uint64_t> words(in.left() / 8 / kIndexColumns * kIndexColumns);
  for (uint64_t& word : words) word = in.take<uint64_t>();
  const int64_t n_tiles = static_cast<int64_t>(words.size()) / kIndexColumns;
  try {
    check_index(parse_tile_index("file", "tensor", file_bytes, base_offset, words.data(), n_tiles), file_bytes,
                base_offset);
  } catch (const CorruptTile& error) {
    check(error.file == "file" && error.tensor == "tensor" && error.tile < std::max<int64_t>(n_tiles, 1),
          "the error names file, tensor and tile");
  }
  return 0;
}
