#include "ngram/drafter.h"

#include <algorithm>
#include <string>

#include "common/errors.h"
#include "ngram/priors.h"

namespace vx {
namespace {

// How long a match must be to be taken for a copy, also after one was left, and how much longer than the copy followed.
constexpr uint32_t kCopyLength = 2, kOtherCopyLength = 8, kCopyLead = 6;

uint32_t run_class(uint32_t run) { return std::min(run, 2u); }

uint32_t age_class(uint32_t n_diverged) { return n_diverged <= 2 ? n_diverged - 1 : n_diverged <= 5 ? 2 : 3; }

uint32_t step_class(uint32_t step) { return step <= 2 ? step - 1 : step <= 4 ? 2 : step <= 9 ? 3 : 4; }

// Where a copy comes back relative to where it left and to how much was written since.
uint32_t distance_class(int64_t distance, int64_t n_diverged) {
  if (distance == n_diverged) return 0;
  if (distance == 0) return 1;
  return distance < n_diverged ? 2 : distance <= n_diverged + 8 ? 3 : 4;
}

}  // namespace

NgramDrafter::NgramDrafter(uint64_t max_tokens, float memory) : memory_(memory), index_(max_tokens), edits_(memory) {
  static_assert(priors::kDraft.size() == kRates);
  for (uint32_t i = 0; i < kRates; ++i) rates_[i] = HitRate(priors::kDraft[i]);
}

std::vector<float> NgramDrafter::rates() const {
  std::vector<float> values;
  for (const HitRate& rate : rates_) values.push_back(rate.value());
  for (const HitRate& rate : edits_.rates()) values.push_back(rate.value());
  return values;
}

void NgramDrafter::push(std::span<const int32_t> ids) {
  for (int32_t id : ids)
    if (id < 0) throw ArgumentError("[ngram_drafter] ids must not be negative, got " + std::to_string(id));
  learn(ids);
  for (int32_t id : ids) {
    if (alignment_.active()) alignment_.advance(index_.text(), index_.n_indexed(), id, edits_);
    alignment_.forget(index_.push(id));
    realign();
  }
}

void NgramDrafter::separate() {
  learn({});
  alignment_.stop();
  alignment_.forget(index_.separate());
}

void NgramDrafter::restart() {
  learn({});
  index_.clear();
  alignment_.stop();
  edits_.clear();
}

void NgramDrafter::learn(std::span<const int32_t> ids) {
  if (!ids.empty()) {
    for (uint32_t i = 0; i < n_first_; ++i) rates_[first_rates_[i]].update(first_ids_[i] == ids[0], memory_);
    const size_t n = std::min(ids.size(), ids_.size());
    for (size_t i = 0; i < n; ++i) {
      const bool hit = ids[i] == ids_[i];
      if (i > 0 && used_rates_[i] != kNoRate) rates_[used_rates_[i]].update(hit, memory_);
      if (!hit) break;
    }
  }
  ids_.clear();
  probabilities_.clear();
  used_rates_.clear();
  n_first_ = 0;
}

// A match that is long enough becomes the copy to follow, unless one is followed that agrees as much.
void NgramDrafter::realign() {
  SuffixMatch longest;
  if (index_.matches({&longest, 1}) == 0 || longest.length < kCopyLength) return;
  const bool lost = !alignment_.active() || (alignment_.diverged() && longest.length >= kOtherCopyLength);
  if (lost || (!alignment_.diverged() && longest.length >= alignment_.streak() + kCopyLead))
    alignment_.start(longest.next, longest.length);
}

int32_t NgramDrafter::token(uint32_t position) const {
  const std::vector<int32_t>& text = index_.text();
  return position < text.size() ? text[position] : ids_[position - text.size()];
}

void NgramDrafter::add(const Source& source) {
  if (n_sources_ == kMaxSources) return;
  if (index_.frozen() && source.next >= index_.n_indexed()) return;
  sources_[n_sources_++] = source;
}

void NgramDrafter::collect() {
  n_sources_ = 0;
  if (alignment_.active()) {
    if (alignment_.diverged()) {
      add_back();
    } else {
      const Place& place = alignment_.place();
      add({place.next, place.run, Reason::copy, kCopyRates + length_class(place.run), place.edit, place.n_done});
    }
  }
  std::array<SuffixMatch, kMaxMatches> matches;
  const size_t n = index_.matches(matches);
  for (size_t i = 0; i < n; ++i) {
    const SuffixMatch& match = matches[i];
    const uint32_t base = kSuffixRates + length_class(match.length) * kShapes;
    if (match.branches == 1) {
      add({match.next, match.length, Reason::suffix, base + (match.count > 1)});
    } else {
      add({match.next, match.length, Reason::suffix, base + 2});
      const uint32_t frequent = index_.most_frequent_next(match);
      if (frequent != match.next) add({frequent, match.length, Reason::suffix, base + 3});
    }
  }
}

void NgramDrafter::add_back() {
  const uint32_t left = alignment_.place().next, age = alignment_.n_diverged();
  const auto source = [&](uint32_t next, uint32_t run) {
    const uint32_t distance = distance_class(int64_t{next} - left, age);
    add({next, run, Reason::back, kBackRates + (run_class(run) * kDistances + distance) * kAges + age_class(age)});
  };
  const std::span<const uint8_t> runs = alignment_.runs();
  const uint32_t begin = alignment_.window_begin();
  const auto run_at = [&](uint32_t next) { return next - begin < runs.size() ? runs[next - begin] : uint8_t{0}; };
  if (left + age < index_.n_indexed()) source(left + age, run_at(left + age));
  source(left, run_at(left));
  if (age > 1) source(left + 1, run_at(left + 1));
  uint32_t n_added = 0;
  for (uint32_t i = left - begin + 1; i < runs.size() && n_added < 4; ++i)
    if (runs[i] > 0 && begin + i != left + age && begin + i != left + 1) source(begin + i, runs[i]), ++n_added;
}

// What the source says comes next; `probability` is lowered or replaced where an edit may be made again.
int32_t NgramDrafter::predicted(Source& source, float& probability) {
  if (source.edit == EditMemory::kNone && source.reason != Reason::suffix && source.next < index_.n_indexed()) {
    const uint32_t edit = edits_.find(index_.text(), source.next);
    if (edit != EditMemory::kNone) {
      const float again = edits_.probability(edit);
      if (again > 0.5f) {
        source.edit = edit;
        source.n_done = 0;
        probability *= again;
      } else {
        probability *= 1.0f - again;
      }
    }
  }
  return source.edit == EditMemory::kNone ? token(source.next) : edits_[source.edit].after[source.n_done];
}

void NgramDrafter::step(Source& source) {
  ++source.length;
  if (source.edit == EditMemory::kNone) {
    ++source.next;
  } else if (++source.n_done == edits_[source.edit].n_after) {
    source.next += edits_[source.edit].n_before;
    source.edit = EditMemory::kNone;
  }
}

void NgramDrafter::draft(uint32_t max_tokens, float min_probability) {
  learn({});
  collect();
  float together = 1.0f;
  for (uint32_t n = 0; n < max_tokens && n_sources_ > 0; ++n) {
    std::array<int32_t, kMaxSources> tokens;
    uint32_t best = 0;
    float best_probability = -1.0f;
    for (uint32_t i = 0; i < n_sources_; ++i) {
      Source& source = sources_[i];
      if (n > 0)
        source.rate = kLaterRates +
                      (static_cast<uint32_t>(source.reason) * kLengthClasses + length_class(source.length)) * kSteps +
                      step_class(n);
      float probability = rates_[source.rate].value();
      tokens[i] = predicted(source, probability);
      if (tokens[i] < 0) probability = -1.0f;  // a separator
      if (probability > best_probability) best = i, best_probability = probability;
    }
    if (n == 0) {
      for (uint32_t i = 0; i < n_sources_; ++i) first_ids_[i] = tokens[i], first_rates_[i] = sources_[i].rate;
      n_first_ = n_sources_;
    }
    together *= best_probability;
    if (together < min_probability || best_probability < 0) break;
    ids_.push_back(tokens[best]);
    probabilities_.push_back(best_probability);
    used_rates_.push_back(sources_[best].rate);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n_sources_; ++i) {
      if (tokens[i] != ids_.back()) continue;
      Source source = sources_[i];
      step(source);
      if (index_.frozen() && source.next >= index_.n_indexed()) continue;
      sources_[kept++] = source;
    }
    n_sources_ = kept;
  }
}

}  // namespace vx
