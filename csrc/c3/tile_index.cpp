#include "c3/tile_index.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "c3/codec_table.h"
#include "common/errors.h"

namespace vx {
namespace {

uint32_t low32(uint64_t word) { return static_cast<uint32_t>(word); }
uint32_t high32(uint64_t word) { return static_cast<uint32_t>(word >> 32); }

class RowParser {
 public:
  RowParser(const std::string& file, const std::string& tensor, uint64_t file_bytes, uint64_t base_offset)
      : file_(file), tensor_(tensor), base_(base_offset) {
    require(base_offset % kAlignment == 0 && base_offset <= file_bytes,
            "starts at an offset that is not a multiple of 4096 inside the file");
    available_ = file_bytes - base_offset;
  }

  TileEntry parse(int64_t tile, const uint64_t* row) {
    tile_ = tile;
    offset_ = base_;
    TileEntry e{};
    e.prefix_bytes = low32(row[2]);
    e.residual_bytes = high32(row[2]);
    e.prefix_crc = low32(row[3]);
    e.residual_crc = high32(row[3]);
    e.row0 = low32(row[5]);
    e.n_rows = high32(row[5]);
    e.col0 = low32(row[6]);
    e.n_cols = high32(row[6]);
    require(row[7] == 0 && row[4] >> 24 == 0, "reserved bits are not zero");
    parse_kinds(row[4], &e);
    require(e.prefix_bytes > 0 && e.stored_bytes() <= kMaxTileBytes, "stored size is not in 1 byte .. 1 MiB");
    e.prefix_offset = range("prefix", row[0], e.prefix_bytes);
    if (e.residual_bytes > 0) {
      e.residual_offset = range("residual", row[1], e.residual_bytes);
    } else {
      require(row[1] == 0 && e.residual_crc == 0, "an empty residual has an offset or a checksum");
    }
    check_size(e);
    return e;
  }

  // The tiles come row group by row group, inside a group column split by column split.
  void check_coverage(const std::vector<TileEntry>& tiles, int64_t* rows, int64_t* cols) {
    uint64_t row = 0, col = 0, width = 0, height = 0;
    for (size_t i = 0; i < tiles.size(); ++i) {
      const TileEntry& e = tiles[i];
      tile_ = static_cast<int64_t>(i);
      offset_ = e.prefix_offset;
      require(e.source_dtype == tiles[0].source_dtype, "source dtype differs from the first tile's");
      if (e.col0 == 0) {
        require(i == 0 || width == 0 || col == width, "the row group before it does not reach the last column");
        if (i > 0 && width == 0) width = col;
        row += height;
        height = e.n_rows;
        col = 0;
      }
      require(e.row0 == row && e.n_rows == height && e.col0 == col, "does not continue where the tile before it ends");
      require(e.row0 % kPanelRows == 0 && e.col0 % kBlockCols == 0, "does not start at a panel and a block");
      col += e.n_cols;
      const bool last_in_group = i + 1 == tiles.size() || tiles[i + 1].col0 == 0;
      require(last_in_group || e.n_cols % kBlockCols == 0, "ends inside a block of columns");
      require((e.col0 == 0 && last_in_group) || e.n_panels() == 1, "splits columns of more than one panel");
    }
    require(width == 0 || col == width, "the last row group does not reach the last column");
    *rows = static_cast<int64_t>(row + height);
    *cols = static_cast<int64_t>(col);
  }

  void check_overlaps(const std::vector<TileEntry>& tiles) {
    struct Range {
      uint64_t begin, end;
      int64_t tile;
    };
    std::vector<Range> ranges;
    for (size_t i = 0; i < tiles.size(); ++i) {
      const TileEntry& e = tiles[i];
      const int64_t tile = static_cast<int64_t>(i);
      ranges.push_back({e.prefix_offset, e.prefix_offset + align_up(e.prefix_bytes), tile});
      if (e.residual_bytes > 0)
        ranges.push_back({e.residual_offset, e.residual_offset + align_up(e.residual_bytes), tile});
    }
    std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    for (size_t i = 1; i < ranges.size(); ++i) {
      tile_ = ranges[i].tile;
      offset_ = ranges[i].begin;
      require(ranges[i - 1].end <= ranges[i].begin,
              "bytes overlap those of tile " + std::to_string(ranges[i - 1].tile));
    }
  }

  void require(bool holds, const std::string& rule) const {
    if (holds) return;
    throw CorruptTile(file_, tensor_, tile_, offset_,
                      file_ + ": " + tensor_ + (tile_ >= 0 ? ", tile " + std::to_string(tile_) : "") + ", offset " +
                          std::to_string(offset_) + ": the tile index is corrupt: " + rule);
  }

 private:
  void parse_kinds(uint64_t word, TileEntry* e) {
    const auto dtype_ok = [](uint64_t d) { return d >= 1 && d <= 3; };
    const uint64_t codec = word & 255, dtype = word >> 8 & 255, source = word >> 16 & 255;
    require(find_codec(codec) != nullptr, "unknown codec " + std::to_string(codec));
    require(dtype_ok(dtype) && dtype_ok(source), "unknown dtype");
    e->codec = static_cast<Codec>(codec);
    e->dtype = static_cast<Dtype>(dtype);
    e->source_dtype = static_cast<Dtype>(source);
    const bool integer = e->codec == Codec::int8 || e->codec == Codec::int4;
    require(dtype == source || (e->source_dtype == Dtype::f32 && e->dtype == Dtype::bf16) ||
                (integer && e->dtype == Dtype::f32),
            "dtype does not come from the source dtype");
  }

  uint64_t range(const char* what, uint64_t offset, uint64_t bytes) {
    require(offset % kAlignment == 0, std::string(what) + " offset is not a multiple of 4096");
    require(offset <= available_ && bytes <= available_ - offset, std::string(what) + " lies outside the file");
    offset_ = base_ + offset;
    return base_ + offset;
  }

  void check_size(const TileEntry& e) const {
    require(e.n_rows > 0 && e.n_cols > 0, "has no rows or no columns");
    // More cannot be in 1 MiB, and the products below stay small.
    require(e.n_rows <= kMaxTileBytes && e.n_cols <= kMaxTileBytes, "rows or columns exceed any possible tile");
    try {
      find_codec(static_cast<uint64_t>(e.codec))->check_entry(e);
    } catch (const std::runtime_error& error) {
      require(false, error.what());
    }
  }

  const std::string& file_;
  const std::string& tensor_;
  uint64_t base_;
  uint64_t available_ = 0;
  int64_t tile_ = -1;
  uint64_t offset_ = 0;
};

}  // namespace

TileIndex parse_tile_index(const std::string& file, const std::string& tensor, uint64_t file_bytes,
                           uint64_t base_offset, const uint64_t* index, int64_t n_tiles) {
  RowParser parser(file, tensor, file_bytes, base_offset);
  parser.require(n_tiles > 0, "has no tiles");
  TileIndex result{};
  result.tiles.reserve(static_cast<size_t>(n_tiles));
  for (int64_t i = 0; i < n_tiles; ++i) result.tiles.push_back(parser.parse(i, index + i * kIndexColumns));
  parser.check_coverage(result.tiles, &result.rows, &result.cols);
  parser.check_overlaps(result.tiles);
  return result;
}

}  // namespace vx
