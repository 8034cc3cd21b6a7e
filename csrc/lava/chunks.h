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
  // row_bytes: a multiple of the alignment that rows need, up to 64; max_rows below 2^31.
  Chunks(int64_t row_bytes, int64_t max_rows);

  std::byte* row(int64_t i) const {
    const auto at = static_cast<uint32_t>(i);
    return chunks_[at / rows_].get() + at % rows_ * row_bytes_;
  }
  template <class T>
  T* row_of(int64_t i) const {
    return reinterpret_cast<T*>(row(i));
  }
  // Makes rows 0..n_rows - 1 exist.
  void reach(int64_t n_rows) {
    while (static_cast<int64_t>(chunks_.size()) * rows_ < n_rows) grow();
  }
  int64_t n_bytes() const { return static_cast<int64_t>(chunks_.size() * bytes_); }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  void grow();

  int64_t row_bytes_;
  uint32_t rows_;             // of a chunk
  size_t alignment_, bytes_;  // of a chunk
  std::vector<std::unique_ptr<std::byte, Free>> chunks_;
};

}  // namespace vx
