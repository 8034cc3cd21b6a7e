// Drafts what may follow a sequence from what it holds already: matches of its end, and the copy it is writing.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "ngram/alignment.h"
#include "ngram/edit_memory.h"
#include "ngram/hit_rates.h"
#include "ngram/suffix_index.h"

namespace vx {

// Every prediction comes from a position of the text, by one of three reasons: a suffix of the text occurred before it,
// the copy has arrived there, or the copy may come back there after an edit. How often each reason was right, by length
// of the agreement and other circumstances, is a measured prior that adapts to the sequence; the likeliest position
// gives the token, and positions that agree go on together. Rejected drafts leave no trace but in the hit rates.
// Deterministic. One thread at a time.
class NgramDrafter {
 public:
  static constexpr float kMemory = 64.0f;

  // The text is bounded by max_tokens as SuffixIndex says; hit rates move over the last `memory` predictions of a kind.
  explicit NgramDrafter(uint64_t max_tokens, float memory = kMemory);

  // Verified ids follow. Throws ArgumentError, and changes nothing, if an id is negative.
  void push(std::span<const int32_t> ids);
  // What follows begins another sequence; drafts may still come from the earlier ones.
  void separate();
  // Another sequence begins and the earlier ones are forgotten; hit rates stay.
  void restart();
  // From now on drafts come only from what was pushed so far.
  void freeze() { index_.freeze(); }

  // At most max_tokens ids that may follow, until all of them together are less likely than min_probability.
  // `probabilities` are of each id if those before it are right. Both stay valid until the next call.
  void draft(uint32_t max_tokens, float min_probability);
  std::span<const int32_t> ids() const { return ids_; }
  std::span<const float> probabilities() const { return probabilities_; }

  const SuffixIndex& index() const { return index_; }
  uint64_t bytes() const { return index_.bytes() + sizeof(*this); }
  // Rates as they are now, in the order of priors::kDraft, then those of edits in the order of priors::kEdits.
  std::vector<float> rates() const;

 private:
  enum class Reason : uint8_t { suffix, copy, back };
  static constexpr uint32_t kMaxSources = 24, kMaxMatches = 8, kNoRate = UINT32_MAX;
  // Layout of rates_.
  static constexpr uint32_t kRuns = 3, kShapes = 4, kDistances = 5, kAges = 4, kSteps = 5, kReasons = 3;
  static constexpr uint32_t kSuffixRates = 0, kCopyRates = kSuffixRates + kLengthClasses * kShapes,
                            kBackRates = kCopyRates + kLengthClasses,
                            kLaterRates = kBackRates + kRuns * kDistances * kAges,
                            kRates = kLaterRates + kReasons * kLengthClasses * kSteps;

  struct Source {
    uint32_t next;    // position of the token it predicts
    uint32_t length;  // tokens before it that agree
    Reason reason;
    uint32_t rate;  // index of its hit rate
    uint32_t edit = EditMemory::kNone, n_done = 0;
  };

  void learn(std::span<const int32_t> ids);
  void realign();
  void collect();
  void add(const Source& source);
  void add_back();
  int32_t token(uint32_t position) const;
  int32_t predicted(Source& source, float& probability);
  void step(Source& source);

  const float memory_;
  SuffixIndex index_;
  Alignment alignment_;
  EditMemory edits_;
  std::array<HitRate, kRates> rates_;

  std::array<Source, kMaxSources> sources_;
  uint32_t n_sources_ = 0;
  std::vector<int32_t> ids_;
  std::vector<float> probabilities_;
  // What learn() needs: the rate behind each drafted id, and all first predictions.
  std::vector<uint32_t> used_rates_;
  std::array<int32_t, kMaxSources> first_ids_;
  std::array<uint32_t, kMaxSources> first_rates_;
  uint32_t n_first_ = 0;
};

}  // namespace vx
