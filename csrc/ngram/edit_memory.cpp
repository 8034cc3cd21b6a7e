#include "ngram/edit_memory.h"

#include <algorithm>

#include "ngram/priors.h"

namespace vx {

EditMemory::EditMemory(float memory) : memory_(memory) {
  for (size_t i = 0; i < rates_.size(); ++i) rates_[i] = HitRate(priors::kEdits[i]);
}

uint32_t EditMemory::rate_class(const Edit& edit) {
  const uint32_t length = std::min(edit.n_before - 1, 2u);
  return (std::min(edit.n_hits, 3u) * 4 + std::min(edit.n_misses, 3u)) * 4 + (edit.needs_left ? 3 : length);
}

void EditMemory::record(std::span<const int32_t> text, uint32_t from, uint32_t to, std::span<const int32_t> after) {
  uint32_t first = 0, n_before = to - from, n_after = static_cast<uint32_t>(after.size());
  while (first < n_before && first < n_after && text[from + first] == after[first]) ++first;
  while (n_before > first && n_after > first && text[from + n_before - 1] == after[n_after - 1]) --n_before, --n_after;
  if (n_before == first && n_after == first) return;
  const bool one_sided = n_before == first || n_after == first;
  if (n_before - first + one_sided > Edit::kMaxTokens || n_after - first + one_sided > Edit::kMaxTokens) return;
  if (one_sided && from + first == 0) return;
  Edit edit;
  for (uint32_t i = first; i < n_before; ++i) edit.before[edit.n_before++] = text[from + i];
  for (uint32_t i = first; i < n_after; ++i) edit.after[edit.n_after++] = after[i];
  if (one_sided) {
    edit.needs_left = true;
    edit.left = text[from + first - 1];
    edit.before[edit.n_before++] = edit.after[edit.n_after++] = text[from + n_before];
    if (edit.before[0] == edit.after[0]) return;
  }
  for (Edit& known : edits_)
    if (known.needs_left == edit.needs_left && (!edit.needs_left || known.left == edit.left) &&
        std::ranges::equal(known.old_ids(), edit.old_ids()) && std::ranges::equal(known.new_ids(), edit.new_ids())) {
      ++known.n_hits;
      return;
    }
  if (edits_.size() < kCapacity) {
    edits_.push_back(edit);
    first_ids_.push_back(edit.before[0]);
    return;
  }
  edits_[oldest_] = edit;
  first_ids_[oldest_] = edit.before[0];
  oldest_ = (oldest_ + 1) % kCapacity;
}

bool EditMemory::fits(uint32_t edit, std::span<const int32_t> text, uint32_t at) const {
  const Edit& e = edits_[edit];
  if (at + e.n_before > text.size() || (e.needs_left && (at == 0 || text[at - 1] != e.left))) return false;
  return std::ranges::equal(e.old_ids(), text.subspan(at, e.n_before));
}

uint32_t EditMemory::find(std::span<const int32_t> text, uint32_t at) const {
  uint32_t best = kNone;
  for (uint32_t i = 0; i < first_ids_.size(); ++i)
    if (first_ids_[i] == text[at] && fits(i, text, at) && (best == kNone || probability(i) >= probability(best)))
      best = i;
  return best;
}

uint32_t EditMemory::find_beginning(std::span<const int32_t> text, uint32_t at, int32_t id) const {
  uint32_t best = kNone;
  for (uint32_t i = 0; i < first_ids_.size(); ++i)
    if (first_ids_[i] == text[at] && edits_[i].after[0] == id && fits(i, text, at) &&
        (best == kNone || probability(i) >= probability(best)))
      best = i;
  return best;
}

void EditMemory::observe(uint32_t edit, bool made) {
  rates_[rate_class(edits_[edit])].update(made, memory_);
  ++(made ? edits_[edit].n_hits : edits_[edit].n_misses);
}

}  // namespace vx
