// The part of the pager that brings a tile in: what is read, how it is checked, what becomes of a failure.
#include <algorithm>
#include <cstdlib>

#include "c3/paged_tile.h"
#include "c3/pager.h"
#include "common/crc32c.h"
#include "common/errors.h"

namespace vx {
namespace {

struct FreeAligned {
  void operator()(uint8_t* p) const { std::free(p); }
};

}  // namespace

void Pager::begin_loading(int64_t id, bool by_prefetch) {
  PagedTile& t = tiles_[id];
  t.status = TileStatus::loading;
  ++n_loading_;
  t.prefetched = by_prefetch;
  if (t.prefix_kept && !std::exchange(t.prefix_charged, true)) charge(prefix_bytes_[id]);
  if (t.resident && !std::exchange(t.frame.charged, true)) charge(t.frame.bytes);
}

// What the tile puts into its frame or slot.
uint64_t Pager::passing_bytes(int64_t id) const {
  return stored_bytes_[id] - (tiles_[id].prefix_kept ? prefix_bytes_[id] : 0);
}

void Pager::place(int64_t id, uint8_t* memory) {
  PagedTile& t = tiles_[id];
  if (!t.prefix_kept) t.prefix = memory;
  if (prefix_bytes_[id] > 0) t.residual = t.prefix_kept ? memory : memory + prefix_bytes_[id];
}

std::exception_ptr Pager::load(int64_t id) {
  const PagedTile& t = tiles_[id];
  const Matrix& m = matrices_[t.matrix];
  try {
    read_checked(m, id - m.first_tile, t.prefix, t.residual, t.prefix_loaded, &bytes_read_);
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

// has_prefix: it was read and checked before.
void Pager::read_checked(const Matrix& m, int64_t tile, uint8_t* prefix, uint8_t* residual, bool has_prefix,
                         std::atomic<uint64_t>* bytes_read) const {
  const TileEntry& e = m.tiles[tile];
  const ShardFile& file = *files_[m.file];
  const auto corrupt = [&](uint64_t offset, const std::string& what) {
    return CorruptTile(file.path(), m.name, tile, offset,
                       file.path() + ": " + m.name + ", tile " + std::to_string(tile) + ", offset " +
                           std::to_string(offset) + ": " + what);
  };
  const uint64_t prefix_size = align_up(e.prefix_bytes), residual_size = align_up(e.residual_bytes);
  const auto read = [&](uint64_t offset, uint8_t* to, uint64_t capacity, uint64_t exact) {
    const uint64_t got = file.read(offset, to, capacity, exact);
    if (bytes_read != nullptr) *bytes_read += capacity;
    if (got < exact) throw corrupt(offset, "the file ends inside the tile, it was truncated");
  };
  if (!has_prefix && residual_size > 0 && e.residual_offset == e.prefix_offset + prefix_size &&
      residual == prefix + prefix_size) {
    read(e.prefix_offset, prefix, prefix_size + residual_size, prefix_size + e.residual_bytes);
  } else {
    if (!has_prefix) read(e.prefix_offset, prefix, prefix_size, e.prefix_bytes);
    if (residual_size > 0) read(e.residual_offset, residual, residual_size, e.residual_bytes);
  }
  if (!has_prefix && crc32c(prefix, e.prefix_bytes) != e.prefix_crc)
    throw corrupt(e.prefix_offset, "wrong checksum of the prefix");
  if (residual_size > 0 && crc32c(residual, e.residual_bytes) != e.residual_crc)
    throw corrupt(e.residual_offset, "wrong checksum of the residual");
  try {
    check_tile({&e, prefix, residual_size > 0 ? residual : nullptr});
  } catch (const std::runtime_error& error) {
    throw corrupt(e.prefix_offset, error.what());
  }
}

void Pager::finish_loading(int64_t id, std::exception_ptr error) {
  PagedTile& t = tiles_[id];
  --n_loading_;
  if (error) {
    t.status = TileStatus::failed;
    t.prefetched = false;
    failures_[id] = std::move(error);
    if (t.slot >= 0) ring_->clear(std::exchange(t.slot, -1));
  } else {
    t.status = TileStatus::ready;
    if (t.prefix_kept && !std::exchange(t.prefix_loaded, true)) resident_bytes_ += prefix_bytes_[id];
    if (t.resident) {
      resident_bytes_ += passing_bytes(id);
      ++n_filled_;
      t.fast.store(std::exchange(t.prefetched, false) ? FastPath::prefetched : FastPath::ready,
                   std::memory_order_release);
    } else if (t.pins == 0 && !(*ring_)[t.slot].wanted) {
      ring_->let_go(t.slot);
    }
  }
  loaded_.notify_all();
  slots_changed();
}

void Pager::throw_failure(int64_t id, bool has_pin) {
  PagedTile& t = tiles_[id];
  const std::exception_ptr error = failures_.at(id);
  if (has_pin) --t.pins;
  if (t.pins == 0) {
    failures_.erase(id);
    t.status = TileStatus::absent;
    slots_changed();
  }
  std::rethrow_exception(error);
}

void Pager::verify(int handle) {
  const Matrix& m = matrix(handle);
  if (started_ || closed_) throw ArgumentError("[pager] verify is called before start");
  uint64_t largest = 0;
  for (const TileEntry& e : m.tiles) largest = std::max(largest, e.stored_bytes());
  const std::unique_ptr<uint8_t, FreeAligned> buffer(static_cast<uint8_t*>(std::aligned_alloc(kAlignment, largest)));
  if (!buffer) throw MachineFailure("[pager] out of memory");
  for (size_t i = 0; i < m.tiles.size(); ++i) {
    const TileEntry& e = m.tiles[i];
    uint8_t* residual = e.residual_bytes > 0 ? buffer.get() + align_up(e.prefix_bytes) : nullptr;
    read_checked(m, static_cast<int64_t>(i), buffer.get(), residual, false, nullptr);
  }
}

}  // namespace vx
