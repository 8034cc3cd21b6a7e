// Rows of one size at addresses that stay: memory comes in pieces, and its pages are touched when rows are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace vx {

class Chunks {
 public:
  // row_bytes a multiple of the alignment that rows need, up to 64.
  Chunks(int64_t row_bytes, int64_t max_rows);

  std::byte* row(int64_t i) const { return chunks_[static_cast<size_t>(i >> shift_)].get() + (i & mask_) * row_bytes_; }
  template <class T>
  T* row_of(int64_t i) const {
    return reinterpret_cast<T*>(row(i));
  }
  // Makes rows 0..n_rows - 1 exist.
  void reach(int64_t n_rows) {
    while (static_cast<int64_t>(chunks_.size()) << shift_ < n_rows) grow();
  }
  int64_t n_bytes() const { return static_cast<int64_t>(chunks_.size()) * row_bytes_ << shift_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  void grow();

  int64_t row_bytes_, shift_ = 0, mask_ = 0;
  std::vector<std::unique_ptr<std::byte, Free>> chunks_;
};

}  // namespace vx
