// One anonymous mapping for every byte of weights that the pager holds. Pages cost memory only once they are filled.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "common/errors.h"

namespace vx {

class Arena {
 public:
  Arena() = default;
  explicit Arena(uint64_t bytes) : bytes_(bytes) {
    if (bytes_ == 0) return;
    void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
      throw MachineFailure("[pager] cannot map " + std::to_string(bytes_) + " bytes: " + std::strerror(errno));
    data_ = static_cast<uint8_t*>(p);
#if defined(MADV_HUGEPAGE)
    // Fewer TLB misses in the kernels and fewer segments in a direct read; refused where huge pages are off.
    madvise(data_, bytes_, MADV_HUGEPAGE);
#endif
  }
  ~Arena() { release(); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  Arena& operator=(Arena&& other) noexcept {
    release();
    data_ = other.data_;
    bytes_ = other.bytes_;
    other.data_ = nullptr;
    other.bytes_ = 0;
    return *this;
  }

  uint8_t* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  // Gives the memory of all pages back; the mapping stays.
  void empty() {
    if (data_ != nullptr) madvise(data_, bytes_, MADV_DONTNEED);
  }
  void release() {
    if (data_ != nullptr) munmap(data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
  }

 private:
  uint8_t* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace vx
