// The first k of scored ids in the order (score descending, id ascending), whatever order they come in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace vx {

struct Scored {
  float score;
  int32_t id;
};

inline bool is_before(const Scored& a, const Scored& b) {
  return a.score > b.score || (a.score == b.score && a.id < b.id);
}

class TopK {
 public:
  explicit TopK(int64_t k) : k_(static_cast<size_t>(k)) {}

  // What scores less will not be among the first.
  float threshold() const { return threshold_; }

  void offer(Scored one) {
    if (heap_.size() == k_) {
      if (!is_before(one, heap_.front())) return;
      std::pop_heap(heap_.begin(), heap_.end(), is_before);
      heap_.back() = one;
    } else {
      heap_.push_back(one);
    }
    std::push_heap(heap_.begin(), heap_.end(), is_before);
    if (heap_.size() == k_) threshold_ = heap_.front().score;
  }

  void offer(const TopK& other) {
    for (const Scored& one : other.heap_) offer(one);
  }

  // In order; offer nothing afterwards.
  const std::vector<Scored>& sorted() {
    std::sort_heap(heap_.begin(), heap_.end(), is_before);
    return heap_;
  }

 private:
  size_t k_;
  std::vector<Scored> heap_;  // the last of them at its root
  float threshold_ = -std::numeric_limits<float>::infinity();
};

}  // namespace vx
