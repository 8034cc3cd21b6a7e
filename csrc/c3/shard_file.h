// One shard file, read past the page cache: what the pager holds is then all the memory that weights take.
#pragma once

#include <cstdint>
#include <string>

namespace vx {

enum class IoMode {
  direct,    // O_DIRECT: the page cache is never touched
  buffered,  // pread, then POSIX_FADV_DONTNEED: where the file system refuses O_DIRECT
};

class ShardFile {
 public:
  // Falls back from direct to buffered where a probe read is refused; mode() says what it came to.
  explicit ShardFile(std::string path, IoMode preferred = IoMode::direct);
  ~ShardFile();
  ShardFile(const ShardFile&) = delete;
  ShardFile& operator=(const ShardFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }  // size when opened
  IoMode mode() const { return mode_; }

  // Reads capacity bytes at offset into buffer, all three multiples of kAlignment. Returns how many arrived: at least
  // `exact` unless the file ends earlier (rounding up may reach past its end). Throws MachineFailure on a read error.
  uint64_t read(uint64_t offset, uint8_t* buffer, uint64_t capacity, uint64_t exact) const;

 private:
  std::string path_;
  IoMode mode_;
  int fd_ = -1;
  uint64_t bytes_ = 0;
};

}  // namespace vx
