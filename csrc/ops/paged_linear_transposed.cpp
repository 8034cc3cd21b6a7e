#include "ops/paged_linear_transposed.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "common/errors.h"
#include "ops/tile_kernels.h"

namespace vx {
namespace {

// Lets workers pass one after the other, by number. A worker must not hold a pin while it waits: the one it waits for
// may need the pin's memory.
class Turns {
 public:
  // False when some worker failed, so that the turn never comes.
  bool wait(int64_t turn) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return next_ == turn || failed_; });
    return !failed_;
  }
  void pass() {
    std::lock_guard lock(mutex_);
    ++next_;
    changed_.notify_all();
  }
  void fail() {
    std::lock_guard lock(mutex_);
    failed_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t next_ = 0;
  bool failed_ = false;
};

int64_t column_blocks(const TileEntry& tile) { return (tile.n_cols + kPanelRows - 1) / kPanelRows; }

// [block of 64 columns][n_rows][64]: the tile's share of the output.
std::vector<float> multiply_tile(const TileKernels& kernels, const TileView& view, const TileEntry& tile,
                                 const float* x, int64_t n_rows, int64_t in_features) {
  std::vector<float> sums(column_blocks(tile) * n_rows * kPanelRows, 0.0f), scratch(2 * kScratchFloats);
  PanelScratch decoded;
  for (int64_t panel = 0; panel < tile.n_panels(); ++panel) {
    const int64_t row = panel * kPanelRows, panel_rows = std::min<int64_t>(kPanelRows, tile.n_rows - row);
    PanelReader reader = open_panel(view, panel, decoded);
    kernels.multiply_transposed(reader, tile.n_cols, panel_rows, x + tile.row0 + row, in_features, n_rows, sums.data(),
                                scratch.data());
  }
  return sums;
}

void add_tile(const TileEntry& tile, const std::vector<float>& sums, int64_t n_rows, int64_t n_cols, float* out) {
  for (int64_t block = 0; block < column_blocks(tile); ++block)
    for (int64_t m = 0; m < n_rows; ++m) {
      const int64_t col = block * kPanelRows, width = std::min<int64_t>(kPanelRows, tile.n_cols - col);
      const float* from = sums.data() + (block * n_rows + m) * kPanelRows;
      float* to = out + m * n_cols + tile.col0 + col;
      for (int64_t c = 0; c < width; ++c) to[c] += from[c];
    }
}

}  // namespace

void paged_linear_transposed(ThreadPool& threads, Simd level, Pager& pager, int handle, const float* x, int64_t n_rows,
                             int64_t in_features, float* out) {
  const Matrix& matrix = pager.matrix(handle);
  if (matrix.rows != in_features)
    throw ArgumentError("[paged_linear_transposed] x must have " + std::to_string(matrix.rows) + " columns for " +
                        matrix.name + ", got " + std::to_string(in_features));
  std::fill_n(out, n_rows * matrix.cols, 0.0f);
  if (n_rows == 0) return;
  const TileKernels& kernels = tile_kernels(level);
  Turns turns;
  threads.for_each(static_cast<int64_t>(matrix.tiles.size()), [&](int64_t i, int) {
    const TileEntry& tile = matrix.tiles[i];
    try {
      std::vector<float> sums;
      {
        const PinnedTile pin = pager.acquire(handle, i, Access::sweep);
        sums = multiply_tile(kernels, pin.view(), tile, x, n_rows, in_features);
      }
      if (!turns.wait(i)) return;
      add_tile(tile, sums, n_rows, matrix.cols, out);
      turns.pass();
    } catch (...) {
      turns.fail();
      throw;
    }
  });
}

}  // namespace vx
