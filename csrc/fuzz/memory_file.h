// A file that lives in memory and has a path, so that code which opens files can be fed millions of them.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace vx::fuzz {

class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("vortex-shard", MFD_CLOEXEC)) {
    if (fd_ < 0) throw std::runtime_error("memfd_create failed");
  }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

  void write(const std::vector<uint8_t>& bytes) {
    resize(bytes.size());
    patch(bytes, 0, bytes.size());
  }
  void resize(uint64_t n_bytes) {
    if (ftruncate(fd_, static_cast<off_t>(n_bytes)) != 0) throw std::runtime_error("ftruncate failed");
  }
  // Writes bytes [begin, end) to where they stand.
  void patch(const std::vector<uint8_t>& bytes, uint64_t begin, uint64_t end) {
    while (begin < end) {
      const ssize_t n = pwrite(fd_, bytes.data() + begin, end - begin, static_cast<off_t>(begin));
      if (n <= 0) throw std::runtime_error("pwrite failed");
      begin += static_cast<uint64_t>(n);
    }
  }

 private:
  int fd_;
};

}  // namespace vx::fuzz
