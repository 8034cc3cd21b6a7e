// Replacements seen so far between a text and the copy of it that is being written, such as a renamed identifier.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "ngram/hit_rates.h"

namespace vx {

// `before` became `after`; their first tokens differ and neither is empty. Where an edit only adds or only removes
// tokens, the token to its right belongs to both sides, and `left`, the token before, must stand there again.
struct Edit {
  static constexpr uint32_t kMaxTokens = 12;
  std::array<int32_t, kMaxTokens> before, after;
  uint32_t n_before = 0, n_after = 0;
  int32_t left = 0;
  bool needs_left = false;
  uint32_t n_hits = 0, n_misses = 0;

  std::span<const int32_t> old_ids() const { return {before.data(), n_before}; }
  std::span<const int32_t> new_ids() const { return {after.data(), n_after}; }
};

// A ring of edits: the oldest is forgotten. Deterministic, one thread at a time.
class EditMemory {
 public:
  static constexpr uint32_t kCapacity = 64;
  static constexpr uint32_t kNone = UINT32_MAX;

  // Hit rates move over the last `memory` chances of a kind.
  explicit EditMemory(float memory);

  // Records that text[from, to) became `after`; too long ones are ignored. text[to] exists.
  void record(std::span<const int32_t> text, uint32_t from, uint32_t to, std::span<const int32_t> after);

  // The likeliest edit of what stands at text[at], or kNone.
  uint32_t find(std::span<const int32_t> text, uint32_t at) const;
  // The edit of what stands at text[at] that begins with `id`, or kNone.
  uint32_t find_beginning(std::span<const int32_t> text, uint32_t at, int32_t id) const;

  const Edit& operator[](uint32_t edit) const { return edits_[edit]; }
  // Chance that an edit is made again where its old tokens stand.
  float probability(uint32_t edit) const { return rates_[rate_class(edits_[edit])].value(); }
  // The edit was made again where it could be, or was not.
  void observe(uint32_t edit, bool made);
  void clear() { edits_.clear(), first_ids_.clear(), oldest_ = 0; }
  std::span<const HitRate> rates() const { return rates_; }

 private:
  bool fits(uint32_t edit, std::span<const int32_t> text, uint32_t at) const;
  static uint32_t rate_class(const Edit& edit);

  std::vector<Edit> edits_;
  std::vector<int32_t> first_ids_;  // of `before`, in the order of edits_, for a fast search
  uint32_t oldest_ = 0;
  const float memory_;
  std::array<HitRate, 64> rates_;
};

}  // namespace vx
