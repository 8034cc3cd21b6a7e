#include "ops/paged_linear.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "common/errors.h"
#include "ops/tile_kernels.h"

namespace vx {
namespace {

constexpr int64_t kRunsPerWorker = 10, kMaxRun = 8;

PinnedTile acquire_planes(Pager& pager, int handle, int64_t tile, Access access, Planes planes) {
  return planes == Planes::all ? pager.acquire(handle, tile, access) : pager.acquire_prefix(handle, tile);
}

PanelReader open_planes(const TileView& view, int64_t panel, PanelScratch& scratch, Planes planes) {
  const bool is_whole = view.residual || view.entry->residual_bytes == 0;
  return planes == Planes::all || (planes == Planes::resident && is_whole) ? open_panel(view, panel, scratch)
                                                                           : open_prefix_panel(view, panel, scratch);
}

// Workers that share a tile share its pin: the first one acquires it, the last one lets it go.
class SharedPin {
 public:
  void expect(int64_t n_users) { users_.fetch_add(n_users, std::memory_order_relaxed); }
  const TileView& acquire(Pager& pager, int handle, int64_t tile, Planes planes) {
    // A panel takes microseconds: whoever comes after the first must not meet a lock.
    if (!ready_.load(std::memory_order_acquire)) {
      std::lock_guard lock(mutex_);
      if (!pin_) {
        pin_.emplace(acquire_planes(pager, handle, tile, Access::sweep, planes));
        ready_.store(true, std::memory_order_release);
      }
    }
    return pin_->view();
  }
  void release() {
    if (users_.fetch_sub(1, std::memory_order_acq_rel) == 1) pin_.reset();
  }

 private:
  std::mutex mutex_;
  std::atomic<bool> ready_{false};
  std::optional<PinnedTile> pin_;
  std::atomic<int64_t> users_{0};
};

// Up to 64 output rows of one part: one panel of one tile, or of several that split its columns.
struct Unit {
  int32_t part;
  int32_t panel;
  int64_t first_tile, n_tiles, first_pin;
  int64_t row0, n_rows;
};

// Calls fn(first tile, number of tiles that split the columns, panel in the tile, first row, rows) for every panel.
template <class F>
void for_each_panel(const Matrix& matrix, F&& fn) {
  const int64_t n = static_cast<int64_t>(matrix.tiles.size());
  for (int64_t first = 0, last; first < n; first = last) {
    const TileEntry& tile = matrix.tiles[first];
    for (last = first + 1; last < n && matrix.tiles[last].row0 == tile.row0;) ++last;
    for (int64_t panel = 0; panel < tile.n_panels(); ++panel)
      fn(first, last - first, panel, tile.row0 + panel * kPanelRows,
         std::min<int64_t>(kPanelRows, tile.n_rows - panel * kPanelRows));
  }
}

// Where runs start, and the end. A worker takes a run of neighbouring panels, so that what the hardware reads ahead at
// the end of one is its own next one. A run is a part of one tile or has several tiles alone: then nobody who waits for
// a tile is one for whom another is pinned, and few slots serve many workers.
std::vector<int64_t> split_into_runs(const std::vector<Unit>& units, int n_workers) {
  const int64_t n_units = static_cast<int64_t>(units.size());
  const int64_t length = std::clamp<int64_t>(n_units / (n_workers * kRunsPerWorker), 1, kMaxRun);
  std::vector<int64_t> starts;
  int64_t in_run = length;
  for (int64_t first = 0, last; first < n_units; first = last) {
    for (last = first + 1; last < n_units && units[last].first_pin == units[first].first_pin;) ++last;
    if (last - first > length) {
      for (int64_t u = first; u < last; u += length) starts.push_back(u);
      in_run = length;
      continue;
    }
    if (in_run >= length) {
      starts.push_back(first);
      in_run = 0;
    }
    in_run += last - first;
  }
  starts.push_back(n_units);
  return starts;
}

// Of codecs that decode whole panels.
PanelScratch& worker_panel() {
  thread_local PanelScratch panel;
  return panel;
}

float* worker_scratch(int64_t n_floats) {
  thread_local std::vector<float> scratch;
  if (static_cast<int64_t>(scratch.size()) < n_floats) scratch.resize(n_floats);
  return scratch.data();
}

// What the tiles of one integer codec multiply: one of the two is filled.
struct IntegerInput {
  IntRowsBuffer plain;
  ActivationBuffer rounded;

  void prepare(ThreadPool& threads, const TileKernels& kernels, Activations activations, int bits, const float* x,
               int64_t n_rows, int64_t n_cols) {
    if (activations == Activations::int8) {
      const RoundRow round_row = bits == 8 ? kernels.round_for_int8 : kernels.round_for_int4;
      if (rounded.empty()) rounded.prepare(threads, round_row, x, n_rows, n_cols);
    } else if (plain.empty()) {
      plain.prepare(bits, x, n_rows, n_cols);
    }
  }
};

std::string number(int64_t n) { return std::to_string(n); }

}  // namespace

void paged_linear(ThreadPool& threads, Simd level, Pager& pager, const std::vector<LinearPart>& parts, const float* x,
                  int64_t n_rows, int64_t in_features, Activations activations, Planes planes) {
  std::vector<Unit> units;
  int64_t n_pins = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    const Matrix& matrix = pager.matrix(parts[p].handle);
    if (matrix.cols != in_features)
      throw ArgumentError("[paged_linear] x must have " + number(matrix.cols) + " columns for " + matrix.name +
                          ", got " + number(in_features));
    if (matrix.rows != parts[p].out_features)
      throw ArgumentError("[paged_linear] the output of " + matrix.name + " must have " + number(matrix.rows) +
                          " columns, got " + number(parts[p].out_features));
    for_each_panel(matrix, [&](int64_t first, int64_t n_tiles, int64_t panel, int64_t row0, int64_t rows) {
      units.push_back(
          {static_cast<int32_t>(p), static_cast<int32_t>(panel), first, n_tiles, n_pins + first, row0, rows});
    });
    n_pins += static_cast<int64_t>(matrix.tiles.size());
  }
  if (n_rows == 0) return;
  const auto pins = std::make_unique<SharedPin[]>(n_pins);
  for (const Unit& unit : units)
    for (int64_t i = 0; i < unit.n_tiles; ++i) pins[unit.first_pin + i].expect(1);

  const TileKernels& kernels = tile_kernels(level);
  IntegerInput input8, input4;
  for (const LinearPart& part : parts)
    for (const TileEntry& tile : pager.matrix(part.handle).tiles) {
      if (tile.codec == Codec::int8) input8.prepare(threads, kernels, activations, 8, x, n_rows, in_features);
      if (tile.codec == Codec::int4) input4.prepare(threads, kernels, activations, 4, x, n_rows, in_features);
    }
  std::atomic<bool> failed{false};
  auto compute = [&](const Unit& unit) {
    const LinearPart& part = parts[unit.part];
    const Matrix& matrix = pager.matrix(part.handle);
    float* scratch = worker_scratch(kScratchFloats + n_rows * kPanelRows);
    float* acc = scratch + kScratchFloats;
    std::memset(acc, 0, n_rows * kPanelRows * sizeof(float));
    for (int64_t i = 0; i < unit.n_tiles; ++i) {
      SharedPin& pin = pins[unit.first_pin + i];
      const TileEntry& tile = matrix.tiles[unit.first_tile + i];
      const TileView& view = pin.acquire(pager, part.handle, unit.first_tile + i, planes);
      PanelReader reader = open_planes(view, unit.panel, worker_panel(), planes);
      const bool is_integer = tile.codec == Codec::int8 || tile.codec == Codec::int4;
      const IntegerInput& input = tile.codec == Codec::int8 ? input8 : input4;
      if (is_integer && activations == Activations::int8)
        kernels.multiply_activations(reader, tile.n_cols, input.rounded.rows().from_group(tile.col0 / kGroupCols),
                                     n_rows, acc);
      else if (is_integer)
        kernels.multiply_integer(reader, tile.n_cols, input.plain.rows().from_col(tile.col0), n_rows, acc);
      else
        kernels.multiply(reader, tile.n_cols, x + tile.col0, in_features, n_rows, acc, scratch);
      pin.release();
    }
    for (int64_t m = 0; m < n_rows; ++m) {
      float* out = part.out + m * part.out_features + unit.row0;
      for (int64_t r = 0; r < unit.n_rows; ++r)
        out[r] = part.bias ? acc[m * kPanelRows + r] + part.bias[unit.row0 + r] : acc[m * kPanelRows + r];
    }
  };
  const std::vector<int64_t> run_starts = split_into_runs(units, threads.size());
  threads.for_each(static_cast<int64_t>(run_starts.size()) - 1, [&](int64_t i, int) {
    for (int64_t u = run_starts[i]; u < run_starts[i + 1]; ++u) {
      if (failed.load(std::memory_order_relaxed)) return;
      try {
        compute(units[u]);
      } catch (...) {
        failed = true;
        throw;
      }
    }
  });
}

void embed_rows(ThreadPool& threads, Simd level, Pager& pager, int handle, const int64_t* ids, int64_t n_ids,
                float* out, int64_t n_cols, Planes planes) {
  const Matrix& matrix = pager.matrix(handle);
  if (matrix.cols != n_cols)
    throw ArgumentError("[embed_rows] the output must have " + number(matrix.cols) + " columns, got " + number(n_cols));
  struct Want {
    int64_t id, position;
  };
  std::vector<Want> wanted(n_ids);
  for (int64_t i = 0; i < n_ids; ++i) {
    if (ids[i] < 0 || ids[i] >= matrix.rows)
      throw ArgumentError("[embed_rows] ids must be in [0, " + number(matrix.rows) + "), got " + number(ids[i]));
    wanted[i] = {ids[i], i};
  }
  std::sort(wanted.begin(), wanted.end(),
            [](const Want& a, const Want& b) { return a.id != b.id ? a.id < b.id : a.position < b.position; });

  // Row groups (tiles side by side) that hold a wanted row, each with its range of `wanted`.
  struct Group {
    int64_t first_tile, n_tiles, begin, end;
  };
  std::vector<Group> groups;
  int64_t next = 0;
  for_each_panel(matrix, [&](int64_t first, int64_t n_tiles, int64_t, int64_t row0, int64_t rows) {
    const int64_t begin = next;
    while (next < n_ids && wanted[next].id < row0 + rows) ++next;
    if (begin == next) return;
    if (!groups.empty() && groups.back().first_tile == first)
      groups.back().end = next;
    else
      groups.push_back({first, n_tiles, begin, next});
  });

  const TileKernels& kernels = tile_kernels(level);
  threads.for_each(static_cast<int64_t>(groups.size()), [&](int64_t g, int) {
    const Group& group = groups[g];
    float* weights = worker_scratch(kChunkCols * kPanelRows);
    for (int64_t t = group.first_tile; t < group.first_tile + group.n_tiles; ++t) {
      const PinnedTile pin = acquire_planes(pager, handle, t, Access::lookup, planes);
      const TileEntry& tile = matrix.tiles[t];
      for (int64_t begin = group.begin, end; begin < group.end; begin = end) {
        const int64_t panel = (wanted[begin].id - tile.row0) / kPanelRows;
        for (end = begin; end < group.end && (wanted[end].id - tile.row0) / kPanelRows == panel;) ++end;
        PanelReader reader = open_planes(pin.view(), panel, worker_panel(), planes);
        for (int64_t col = 0; col < tile.n_cols; col += kChunkCols) {
          const int64_t width = std::min<int64_t>(kChunkCols, tile.n_cols - col);
          kernels.decode(reader, width, weights);
          for (int64_t i = begin; i < end; ++i) {
            const int64_t row = (wanted[i].id - tile.row0) % kPanelRows;
            float* to = out + wanted[i].position * n_cols + tile.col0 + col;
            for (int64_t c = 0; c < width; ++c) to[c] = weights[c * kPanelRows + row];
          }
        }
      }
    }
  });
}

}  // namespace vx
