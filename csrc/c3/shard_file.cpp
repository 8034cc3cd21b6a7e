#include "c3/shard_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "c3/tile.h"
#include "common/errors.h"

namespace vx {
namespace {

// Some file systems refuse O_DIRECT when opening, some only when reading.
bool direct_read_works(int fd) {
  void* probe = std::aligned_alloc(kAlignment, kAlignment);
  if (probe == nullptr) return false;
  const ssize_t n = pread(fd, probe, kAlignment, 0);
  std::free(probe);
  return n >= 0 || errno == EINTR;
}

}  // namespace

ShardFile::ShardFile(std::string path, IoMode preferred) : path_(std::move(path)), mode_(preferred) {
#if defined(O_DIRECT)
  if (mode_ == IoMode::direct) {
    fd_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (fd_ >= 0 && !direct_read_works(fd_)) {
      ::close(fd_);
      fd_ = -1;
    }
  }
#endif
  if (fd_ < 0) {
    mode_ = IoMode::buffered;
    fd_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  }
  struct stat status{};
  if (fd_ < 0 || fstat(fd_, &status) != 0) {
    const std::string why = std::strerror(errno);
    if (fd_ >= 0) ::close(fd_);
    throw MachineFailure(path_ + ": cannot be opened: " + why);
  }
  bytes_ = static_cast<uint64_t>(status.st_size);
#if defined(POSIX_FADV_RANDOM)
  // Readahead would fetch bytes that are dropped again.
  if (mode_ == IoMode::buffered) posix_fadvise(fd_, 0, 0, POSIX_FADV_RANDOM);
#endif
}

ShardFile::~ShardFile() { ::close(fd_); }

uint64_t ShardFile::read(uint64_t offset, uint8_t* buffer, uint64_t capacity, uint64_t exact) const {
  uint64_t done = 0;
  while (done < exact) {
    const ssize_t n = pread(fd_, buffer + done, capacity - done, static_cast<off_t>(offset + done));
    if (n < 0) {
      if (errno == EINTR) continue;
      throw MachineFailure(path_ + ": reading " + std::to_string(capacity - done) + " bytes at offset " +
                           std::to_string(offset + done) + " failed: " + std::strerror(errno));
    }
    const uint64_t got = static_cast<uint64_t>(n);
    if (done + got >= exact || got < kAlignment) {
      done += got;
      break;
    }
    // A short read inside the file goes on at the last whole block, as O_DIRECT requires.
    done += got / kAlignment * kAlignment;
  }
#if defined(POSIX_FADV_DONTNEED)
  if (mode_ == IoMode::buffered)
    posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(capacity), POSIX_FADV_DONTNEED);
#endif
  return done;
}

}  // namespace vx
