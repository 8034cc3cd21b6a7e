#include "c3/adaptation.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

namespace vx {
namespace {

constexpr double kMuchSooner = 1.5;    // how many times later the resident must be expected
constexpr double kClearlyFewer = 1.1;  // how many times more bytes the rule in force must have missed
constexpr uint32_t kSteady = 2;        // intervals running that are like the one before them make a period
constexpr uint64_t kOverdue = 64;      // a tile is overdue when its age exceeds its period by this part
constexpr uint64_t kCandidates = 16;   // residents looked at for one decision
constexpr double kLittleMore = 1.02;   // times the bytes that whole tiles miss may be missed with kept prefixes
constexpr uint64_t kSampledTiles = 4096;
constexpr uint64_t kWindowSweeps = 8;  // what was missed so long ago counts 1/e

uint64_t distance(uint64_t a, uint64_t b) { return a > b ? a - b : b - a; }

bool sampled(int64_t tile, uint64_t stride) {
  return (static_cast<uint64_t>(tile) * 0x9E3779B97F4A7C15u >> 32) % stride == 0;
}

}  // namespace

Adaptation::Adaptation(std::vector<uint64_t> bytes, const std::vector<bool>& resident, uint64_t sweep_bytes,
                       std::vector<uint64_t> stored_bytes, uint64_t budget_bytes)
    : bytes_(std::move(bytes)),
      stored_bytes_(std::move(stored_bytes)),
      sweep_bytes_(std::max<uint64_t>(sweep_bytes, 1)),
      uses_(std::make_unique<Use[]>(bytes_.size())),
      place_(bytes_.size(), -1),
      steady_place_(bytes_.size(), -1) {
  sample_stride_ = std::max<uint64_t>(bytes_.size() / kSampledTiles, 1);
  uint64_t all = 0, sample = 0, held = 0;
  for (size_t t = 0; t < bytes_.size(); ++t) {
    const int64_t id = static_cast<int64_t>(t);
    all += bytes_[t];
    if (resident[t]) {
      held += bytes_[t];
      place_[t] = static_cast<int64_t>(residents_.size());
      residents_.push_back(id);
      by_age_.push({0, id});
    }
    if (!sampled(id, sample_stride_)) continue;
    sample += bytes_[t];
    if (!resident[t]) continue;
    steady_place_[t] = static_cast<int64_t>(steady_.size());
    steady_.push_back(id);
    steady_bytes_ += bytes_[t];
  }
  const double share = static_cast<double>(sample) / static_cast<double>(std::max<uint64_t>(all, 1));
  const auto scaled = [&](uint64_t n) { return static_cast<uint64_t>(static_cast<double>(n) * share); };
  recent_ghost_ = std::make_unique<RecentGhost>(bytes_.size(), std::max(steady_bytes_, scaled(held)));
  if (budget_bytes > 0) whole_ghost_ = std::make_unique<RecentGhost>(bytes_.size(), scaled(budget_bytes));
  decay_per_byte_ = 1.0 / (static_cast<double>(kWindowSweeps * sweep_bytes_) * std::max(share, 1e-9));
}

void Adaptation::used(int64_t tile) {
  Use& use = uses_[static_cast<size_t>(tile)];
  const uint64_t now = clock_.fetch_add(bytes_[static_cast<size_t>(tile)], std::memory_order_relaxed) + 1;
  const uint64_t last = use.last.load(std::memory_order_relaxed);
  if (last > 0 && now > last) {
    const uint64_t mean = use.interval.load(std::memory_order_relaxed), interval = now - last;
    const uint64_t before = use.last_interval.exchange(interval, std::memory_order_relaxed);
    const uint64_t period = use.period.load(std::memory_order_relaxed);
    const uint64_t off = distance(interval, before);
    use.regular.store(off < before / 4, std::memory_order_relaxed);
    const uint32_t alike = off < before / 8 ? use.alike.load(std::memory_order_relaxed) + 1 : 0;
    use.alike.store(alike, std::memory_order_relaxed);
    if (alike >= kSteady)
      use.period.store(interval, std::memory_order_relaxed);
    else if (distance(interval, period) >= period / 8 && distance(before, period) >= period / 8)
      use.period.store(0, std::memory_order_relaxed);
    use.interval.store(mean == 0 ? interval : (mean + interval) / 2, std::memory_order_relaxed);
  }
  use.last.store(now, std::memory_order_relaxed);
  if (sampled(tile, sample_stride_)) sample(tile, last > 0, now);
}

uint64_t Adaptation::expected(int64_t tile, uint64_t now) const {
  const Use& use = uses_[static_cast<size_t>(tile)];
  const uint64_t last = use.last.load(std::memory_order_relaxed), mean = use.interval.load(std::memory_order_relaxed);
  return std::max(mean > 0 ? mean : sweep_bytes_, now > last ? now - last : 0);
}

bool Adaptation::much_sooner(int64_t tile, int64_t resident, uint64_t now) const {
  if (uses_[static_cast<size_t>(tile)].interval.load(std::memory_order_relaxed) == 0) return false;
  return static_cast<double>(expected(tile, now)) * kMuchSooner < static_cast<double>(expected(resident, now));
}

bool Adaptation::due(int64_t resident, uint64_t now) const {
  const Use& use = uses_[static_cast<size_t>(resident)];
  const uint64_t last = use.last.load(std::memory_order_relaxed);
  const uint64_t period = use.period.load(std::memory_order_relaxed);
  return period > 0 && now <= last + period + period / kOverdue;
}

// What a tile's first use misses counts for neither rule.
void Adaptation::sample(int64_t tile, bool seen_before, uint64_t now) {
  const size_t t = static_cast<size_t>(tile);
  const std::lock_guard lock(sample_mutex_);
  const uint64_t size = bytes_[t];
  const bool missed_steady = steady_place_[t] < 0;
  const bool missed_recent = recent_ghost_->use(tile, bytes_, [&](int64_t oldest) { return due(oldest, now); });
  const bool missed_whole = whole_ghost_ && whole_ghost_->use(tile, stored_bytes_, [](int64_t) { return false; });
  if (!seen_before) return;
  if (missed_steady && !steady_.empty()) {
    int64_t latest = -1;
    for (uint64_t i = 0; i < kCandidates; ++i) {
      const int64_t one = steady_[sample_random_() % steady_.size()];
      if (latest < 0 || expected(one, now) > expected(latest, now)) latest = one;
    }
    const uint64_t without = steady_bytes_ - bytes_[static_cast<size_t>(latest)];
    if (without + size <= recent_ghost_->capacity_bytes() && much_sooner(tile, latest, now)) {
      const int64_t place = std::exchange(steady_place_[static_cast<size_t>(latest)], -1);
      steady_[static_cast<size_t>(place)] = tile;
      steady_place_[t] = place;
      steady_bytes_ = without + size;
    }
  }
  const double keep = std::exp(-static_cast<double>(size) * decay_per_byte_), bytes = static_cast<double>(size);
  steady_missed_ = steady_missed_ * keep + (missed_steady ? bytes : 0.0);
  recent_missed_ = recent_missed_ * keep + (missed_recent ? bytes : 0.0);
  const bool recent = recent_.load(std::memory_order_relaxed);
  const double in_force = recent ? recent_missed_ : steady_missed_, other = recent ? steady_missed_ : recent_missed_;
  // A few tiles are no evidence.
  if (in_force > other * kClearlyFewer + 4.0 * bytes) recent_.store(!recent, std::memory_order_relaxed);
  if (!whole_ghost_) return;
  if (recent ? missed_recent : missed_steady) prefix_loss_ += bytes;
  if (missed_whole) prefix_loss_ -= static_cast<double>(stored_bytes_[t]) * kLittleMore;
  prefix_loss_ = std::max(prefix_loss_, 0.0);
  if (prefix_loss_ > static_cast<double>(whole_ghost_->capacity_bytes()))
    prefixes_lose_.store(true, std::memory_order_relaxed);
}

int64_t Adaptation::victim(int64_t tile, const std::function<bool(int64_t)>& fits) {
  if (residents_.empty()) return -1;
  return follows_recency() ? recent_victim(tile, fits) : steady_victim(tile, fits);
}

int64_t Adaptation::steady_victim(int64_t tile, const std::function<bool(int64_t)>& fits) {
  const uint64_t now = clock_.load(std::memory_order_relaxed);
  int64_t latest = -1;
  for (uint64_t i = 0; i < kCandidates; ++i) {
    const int64_t one = residents_[random_() % residents_.size()];
    if ((latest < 0 || expected(one, now) > expected(latest, now)) && much_sooner(tile, one, now) && fits(one))
      latest = one;
  }
  return latest;
}

int64_t Adaptation::recent_victim(int64_t tile, const std::function<bool(int64_t)>& fits) {
  const uint64_t now = clock_.load(std::memory_order_relaxed);
  std::vector<Aged> passed;
  int64_t found = -1;
  while (found < 0 && passed.size() < kCandidates && !by_age_.empty()) {
    const Aged oldest = by_age_.top();
    by_age_.pop();
    const size_t t = static_cast<size_t>(oldest.second);
    if (place_[t] < 0) continue;  // displaced by the other rule
    const uint64_t last = uses_[t].last.load(std::memory_order_relaxed);
    if (last != oldest.first) {
      by_age_.push({last, oldest.second});
      continue;
    }
    passed.push_back(oldest);
    if (last > uses_[static_cast<size_t>(tile)].last.load(std::memory_order_relaxed)) break;
    if (!due(oldest.second, now) && fits(oldest.second)) found = oldest.second;
  }
  for (const Aged& entry : passed) by_age_.push(entry);
  return found;
}

void Adaptation::swapped(int64_t victim, int64_t tile) {
  const int64_t place = std::exchange(place_[static_cast<size_t>(victim)], -1);
  residents_[static_cast<size_t>(place)] = tile;
  place_[static_cast<size_t>(tile)] = place;
  const auto aged = [&](int64_t t) {
    return Aged{uses_[static_cast<size_t>(t)].last.load(std::memory_order_relaxed), t};
  };
  by_age_.push(aged(tile));
  if (by_age_.size() > 2 * residents_.size() + kCandidates) {  // mostly entries of displaced tiles
    by_age_ = {};
    for (int64_t t : residents_) by_age_.push(aged(t));
  }
}

}  // namespace vx
