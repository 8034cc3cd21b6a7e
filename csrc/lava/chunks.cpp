#include "lava/chunks.h"

#include <algorithm>
#include <bit>
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

Chunks::Chunks(int64_t row_bytes, int64_t max_rows) : row_bytes_(row_bytes) {
  const int64_t rows = std::clamp<int64_t>(kChunkBytes / row_bytes, 1, std::max<int64_t>(1, max_rows));
  shift_ = std::bit_width(static_cast<uint64_t>(rows)) - 1;
  mask_ = (int64_t{1} << shift_) - 1;
}

void Chunks::grow() {
  const int64_t used = row_bytes_ << shift_;
  const bool is_huge = used > kChunkBytes / 2;
  const auto alignment = static_cast<size_t>(is_huge ? kChunkBytes : 64);
  const size_t bytes = (static_cast<size_t>(used) + alignment - 1) / alignment * alignment;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(alignment, bytes));
  if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  // A hint: without huge pages the bank is slower and nothing else.
  if (is_huge) static_cast<void>(madvise(memory, bytes, MADV_HUGEPAGE));
#endif
  chunks_.emplace_back(memory);
}

}  // namespace vx
