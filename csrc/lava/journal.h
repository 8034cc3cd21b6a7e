// What memory held before it was written, while a transaction is open: undone backwards it holds that again, bit for
// bit. Marks nest; what is logged must keep its address.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vx {

class Journal {
 public:
  bool is_open() const { return !marks_.empty(); }
  // Changes with every mark: what was saved once under a number need not be saved again.
  uint64_t generation() const { return generation_; }

  int64_t begin();
  // Throws ArgumentError if the mark is not open. Both close it and those begun after it.
  void commit(int64_t mark);
  void rollback(int64_t mark);

  // Do nothing while no mark is open.
  void save(void* at, size_t n_bytes) { save_rows(at, 1, n_bytes, 0); }
  // n_rows times n_bytes, every `stride` bytes.
  void save_rows(void* at, size_t n_rows, size_t n_bytes, size_t stride);

  size_t n_bytes() const { return bytes_.capacity() + entries_.capacity() * sizeof(Entry); }

 private:
  struct Entry {
    std::byte* at;
    size_t n_rows, n_bytes, stride;
  };
  struct Mark {
    int64_t number;
    size_t n_entries;
  };
  size_t depth_of(int64_t mark, const char* op) const;

  std::vector<Entry> entries_;
  std::vector<std::byte> bytes_;
  std::vector<Mark> marks_;
  int64_t next_mark_ = 1;
  uint64_t generation_ = 1;
};

}  // namespace vx
