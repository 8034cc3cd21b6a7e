#include "lava/journal.h"

#include <cstring>
#include <string>

#include "common/errors.h"

namespace vx {

int64_t Journal::begin() {
  ++generation_;
  marks_.push_back({next_mark_, entries_.size()});
  return next_mark_++;
}

size_t Journal::depth_of(int64_t mark, const char* op) const {
  for (size_t i = 0; i < marks_.size(); ++i)
    if (marks_[i].number == mark) return i;
  throw ArgumentError(std::string("[") + op + "] mark must be one that is open, got " + std::to_string(mark));
}

void Journal::commit(int64_t mark) {
  marks_.resize(depth_of(mark, "commit"));
  ++generation_;
  if (!marks_.empty()) return;
  entries_.clear();
  bytes_.clear();
}

void Journal::rollback(int64_t mark) {
  const size_t depth = depth_of(mark, "rollback");
  while (entries_.size() > marks_[depth].n_entries) {
    const Entry& entry = entries_.back();
    const std::byte* from = bytes_.data() + bytes_.size() - entry.n_rows * entry.n_bytes;
    for (size_t row = 0; row < entry.n_rows; ++row)
      std::memcpy(entry.at + row * entry.stride, from + row * entry.n_bytes, entry.n_bytes);
    bytes_.resize(bytes_.size() - entry.n_rows * entry.n_bytes);
    entries_.pop_back();
  }
  marks_.resize(depth);
  ++generation_;
}

void Journal::save_rows(void* at, size_t n_rows, size_t n_bytes, size_t stride) {
  if (!is_open()) return;
  auto* first = static_cast<std::byte*>(at);
  entries_.push_back({first, n_rows, n_bytes, stride});
  const size_t old = bytes_.size();
  bytes_.resize(old + n_rows * n_bytes);
  for (size_t row = 0; row < n_rows; ++row)
    std::memcpy(bytes_.data() + old + row * n_bytes, first + row * stride, n_bytes);
}

}  // namespace vx
