// Where in the earlier text the copy that is being written has arrived, across insertions, deletions and replacements.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "ngram/edit_memory.h"

namespace vx {

// A place from which the copy may go on: the next token to copy, and how sure that is.
struct Place {
  uint32_t next = 0;                  // position in the text
  uint32_t run = 0;                   // tokens before it that equal the end of the text
  uint32_t edit = EditMemory::kNone;  // the copy is inside this edit …
  uint32_t n_done = 0;                // … of which so many new tokens stand
};

// Follows one copy. The text is given at every call and grows by one token between two.
class Alignment {
 public:
  static constexpr uint32_t kBack = 16, kWindow = 128, kMaxDiverged = 64, kConfirm = 3;

  bool active() const { return active_; }
  bool diverged() const { return n_diverged_ > 0; }
  // Tokens since the copy left the text, 0 if it has not.
  uint32_t n_diverged() const { return n_diverged_; }
  // Where it is, or where it left the text.
  const Place& place() const { return place_; }
  // Tokens copied since the copy began or came back.
  uint32_t streak() const { return place_.run; }
  // Positions near where the copy left, with the number of tokens that agree before each; only while diverged.
  uint32_t window_begin() const { return window_begin_; }
  std::span<const uint8_t> runs() const { return {runs_.data(), n_window_}; }

  void start(uint32_t next, uint32_t run);
  void stop() { active_ = false, n_diverged_ = 0; }
  void forget(uint32_t n_tokens);

  // `id` is about to follow `text`; positions before `limit` may be copied.
  void advance(std::span<const int32_t> text, uint32_t limit, int32_t id, EditMemory& edits);

 private:
  void leave(std::span<const int32_t> text, uint32_t limit);
  void extend_runs(std::span<const int32_t> text, int32_t id);
  void come_back(std::span<const int32_t> text, EditMemory& edits);

  bool active_ = false;
  Place place_;
  uint32_t n_diverged_ = 0;
  uint32_t window_begin_ = 0, n_window_ = 0;
  std::array<uint8_t, kWindow> runs_{};
  std::vector<int32_t> written_;  // since the copy left the text
};

}  // namespace vx
