// How often a kind of prediction is right: measured beforehand, adapted while it is used.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace vx {

// One frequency: a prior of some weight, then a moving average of what is seen.
class HitRate {
 public:
  static constexpr float kPriorWeight = 16.0f;

  HitRate() = default;
  explicit HitRate(uint16_t prior_permille) : rate_(static_cast<float>(prior_permille) / 1000.0f) {}

  float value() const { return rate_; }
  // `memory`: over how many predictions the average moves.
  void update(bool hit, float memory) {
    weight_ = std::min(weight_ + 1.0f, memory);
    rate_ += ((hit ? 1.0f : 0.0f) - rate_) / (weight_ + 1.0f);
  }

 private:
  float rate_ = 0.5f, weight_ = kPriorWeight;
};

// Classes of a length: exact where it matters, then by powers.
inline uint32_t length_class(uint32_t length) {
  constexpr std::array<uint8_t, 17> kSmall = {0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 7, 7, 8, 8, 8, 8};
  if (length < kSmall.size()) return kSmall[length];
  return length < 32 ? 9 : length < 64 ? 10 : 11;
}
inline constexpr uint32_t kLengthClasses = 12;

}  // namespace vx
