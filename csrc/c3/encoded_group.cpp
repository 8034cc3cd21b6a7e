#include "c3/encoded_group.h"

#include "c3/float_layout.h"
#include "common/crc32c.h"

namespace vx {
namespace {

// The checksum and the size of the range, which is padded.
void seal(std::vector<uint8_t>& range, uint32_t* bytes, uint32_t* crc) {
  *bytes = static_cast<uint32_t>(range.size());
  *crc = crc32c(range.data(), range.size());
  range.resize(align_up(range.size()), 0);
}

uint32_t extend(uint32_t crc, const std::vector<uint8_t>& range, uint32_t bytes, uint32_t range_crc) {
  return crc32c(range.data() + bytes, range.size() - bytes, crc32c_joined(crc, range_crc, bytes));
}

}  // namespace

void EncodedGroup::encode(ThreadPool& threads, const Weights& slab, Codec codec,
                          const std::vector<Rectangle>& rectangles) {
  n_tiles_ = static_cast<int64_t>(rectangles.size());
  if (tiles_.size() < rectangles.size()) tiles_.resize(rectangles.size());
  const int64_t item = float_layout(slab.dtype).item_bytes();
  threads.for_each(n_tiles_, [&](int64_t i, int) {
    const auto& [row0, n_rows, col0, n_cols] = rectangles[i];
    Tile& tile = tiles_[i];
    const uint8_t* corner = slab.data + (row0 * slab.row_stride + col0) * item;
    encode_tile({corner, slab.row_stride, n_rows, n_cols, slab.dtype}, codec, &tile.encoded);
    seal(tile.encoded.prefix, &tile.prefix_bytes, &tile.prefix_crc);
    seal(tile.encoded.residual, &tile.residual_bytes, &tile.residual_crc);
  });
}

uint32_t EncodedGroup::extend_crc(uint32_t crc) const {
  for (int64_t i = 0; i < n_tiles_; ++i) {
    const Tile& t = tiles_[i];
    crc = extend(crc, t.encoded.prefix, t.prefix_bytes, t.prefix_crc);
  }
  for (int64_t i = 0; i < n_tiles_; ++i) {
    const Tile& t = tiles_[i];
    crc = extend(crc, t.encoded.residual, t.residual_bytes, t.residual_crc);
  }
  return crc;
}

}  // namespace vx
