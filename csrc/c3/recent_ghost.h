// Which tiles LRU would hold in so many bytes, without their bytes.
#pragma once

#include <cstdint>
#include <list>
#include <vector>

namespace vx {

class RecentGhost {
 public:
  RecentGhost(size_t n_tiles, uint64_t capacity_bytes) : capacity_bytes_(capacity_bytes), node_(n_tiles, held_.end()) {}
  RecentGhost(const RecentGhost&) = delete;
  RecentGhost& operator=(const RecentGhost&) = delete;

  uint64_t capacity_bytes() const { return capacity_bytes_; }

  // True when the tile was not held; it is then. Of the oldest tiles the first leave that are not spared; where all
  // kCandidates are, the tile itself does.
  template <class Spared>
  bool use(int64_t tile, const std::vector<uint64_t>& bytes, Spared spared) {
    auto& node = node_[static_cast<size_t>(tile)];
    if (node != held_.end()) {
      held_.splice(held_.end(), held_, node);
      return false;
    }
    node = held_.insert(held_.end(), tile);
    bytes_ += bytes[static_cast<size_t>(tile)];
    while (bytes_ > capacity_bytes_) {
      auto out = held_.begin();
      for (int i = 0; i < kCandidates && out != node && spared(*out); ++i) ++out;
      if (out != node && spared(*out)) out = node;
      const size_t leaver = static_cast<size_t>(*out);
      held_.erase(out);
      node_[leaver] = held_.end();
      bytes_ -= bytes[leaver];
      if (leaver == static_cast<size_t>(tile)) break;
    }
    return true;
  }

 private:
  static constexpr int kCandidates = 16;

  const uint64_t capacity_bytes_;
  uint64_t bytes_ = 0;
  std::list<int64_t> held_;  // oldest first
  std::vector<std::list<int64_t>::iterator> node_;
};

}  // namespace vx
