#include "lava/chunks.h"

#include <algorithm>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace vx {
namespace {

// A huge page, where a bank may become large: a list's blocks lie wherever there was room, and with small pages every
// block would wait for the page table.
constexpr int64_t kChunkBytes = 2 << 20;

}  // namespace

Chunks::Chunks(int64_t row_bytes, int64_t max_rows)
    : row_bytes_(row_bytes),
      rows_(static_cast<uint32_t>(std::clamp<int64_t>(kChunkBytes / row_bytes, 1, std::max<int64_t>(1, max_rows)))) {
  const int64_t used = row_bytes * rows_;
  alignment_ = static_cast<size_t>(used > kChunkBytes / 2 ? kChunkBytes : 64);
  bytes_ = (static_cast<size_t>(used) + alignment_ - 1) / alignment_ * alignment_;
}

void Chunks::grow() {
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(alignment_, bytes_));
  if (memory == nullptr) throw std::bad_alloc();
  chunks_.emplace_back(memory);
#if defined(__linux__)
  // A hint: without huge pages the bank is slower and nothing else.
  if (alignment_ == kChunkBytes) static_cast<void>(madvise(memory, bytes_, MADV_HUGEPAGE));
#endif
}

}  // namespace vx
