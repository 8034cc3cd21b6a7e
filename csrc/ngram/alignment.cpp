#include "ngram/alignment.h"

#include <algorithm>

namespace vx {

void Alignment::start(uint32_t next, uint32_t run) {
  active_ = true;
  place_ = {next, run};
  n_diverged_ = 0;
}

void Alignment::forget(uint32_t n_tokens) {
  if (n_tokens == 0) return;
  if (place_.next < n_tokens + kBack || (diverged() && window_begin_ < n_tokens)) return stop();
  place_.next -= n_tokens;
  window_begin_ -= diverged() ? n_tokens : 0;
}

void Alignment::advance(std::span<const int32_t> text, uint32_t limit, int32_t id, EditMemory& edits) {
  if (!active_) return;
  if (!diverged()) {
    if (place_.edit != EditMemory::kNone) {
      const Edit& edit = edits[place_.edit];
      if (edit.after[place_.n_done] == id) {
        ++place_.run;
        if (++place_.n_done == edit.n_after) {
          edits.observe(place_.edit, true);
          place_ = {place_.next + edit.n_before, place_.run};
          if (place_.next >= limit) stop();
        }
        return;
      }
      // Another edit that begins alike: what it wrote so far counts as written since the copy left.
      written_.assign(edit.after.begin(), edit.after.begin() + place_.n_done);
      place_.edit = EditMemory::kNone;
      leave(text, limit);
      for (size_t i = 1; i < written_.size(); ++i) n_diverged_++;
      std::fill_n(runs_.begin(), n_window_, uint8_t{0});
    } else if (place_.next < limit && text[place_.next] == id) {
      const uint32_t possible = edits.find(text.first(limit), place_.next);
      if (possible != EditMemory::kNone) edits.observe(possible, false);
      ++place_.next;
      ++place_.run;
      if (place_.next >= limit) stop();
      return;
    } else {
      if (place_.next >= limit) return stop();
      const uint32_t known = edits.find_beginning(text.first(limit), place_.next, id);
      if (known != EditMemory::kNone) {
        place_.edit = known;
        place_.n_done = 1;
        ++place_.run;
        if (edits[known].n_after == 1) {
          edits.observe(known, true);
          place_ = {place_.next + edits[known].n_before, place_.run};
          if (place_.next >= limit) stop();
        }
        return;
      }
      written_.clear();
      leave(text, limit);
    }
  }
  ++n_diverged_;
  written_.push_back(id);
  extend_runs(text, id);
  come_back(text, edits);
  if (diverged() && n_diverged_ > kMaxDiverged) stop();
}

// The window of positions where the copy may come back, with no token agreeing yet but those before the place itself.
void Alignment::leave(std::span<const int32_t> text, uint32_t limit) {
  window_begin_ = place_.next - std::min(place_.next, kBack);
  n_window_ = std::min(kWindow, limit - window_begin_);
  std::fill_n(runs_.begin(), n_window_, uint8_t{0});
  // How many tokens before each position equal the end of the text: what is about to be written may go on from there.
  const auto size = static_cast<uint32_t>(text.size());
  for (uint32_t i = 0; i < n_window_; ++i) {
    const uint32_t at = window_begin_ + i;
    uint32_t run = 0;
    while (run < kConfirm - 1 && run < at && run < size && text[at - 1 - run] == text[size - 1 - run]) ++run;
    runs_[i] = static_cast<uint8_t>(run);
  }
  const uint32_t self = place_.next - window_begin_;
  if (self < n_window_) runs_[self] = 0;
}

void Alignment::extend_runs(std::span<const int32_t> text, int32_t id) {
  for (uint32_t i = n_window_; i-- > 1;)
    runs_[i] = text[window_begin_ + i - 1] == id ? static_cast<uint8_t>(std::min(runs_[i - 1] + 1, 200)) : uint8_t{0};
  if (n_window_ > 0) runs_[0] = 0;
}

void Alignment::come_back(std::span<const int32_t> text, EditMemory& edits) {
  uint32_t best = kWindow;
  for (uint32_t i = 0; i < n_window_; ++i)
    if (runs_[i] >= kConfirm && (best == kWindow || runs_[i] > runs_[best])) best = i;
  if (best == kWindow) return;
  const uint32_t next = window_begin_ + best;
  const uint32_t run = runs_[best];
  if (next >= place_.next + std::min<uint32_t>(run, n_diverged_)) {
    // What agrees at the end of both sides is not part of the edit.
    const uint32_t common = std::min({run, n_diverged_, next - place_.next});
    edits.record(text, place_.next, next - common, std::span(written_).first(written_.size() - common));
  }
  place_ = {next, run};
  n_diverged_ = 0;
}

}  // namespace vx
