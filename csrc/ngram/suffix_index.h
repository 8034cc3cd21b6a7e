// An online suffix automaton over token ids: where the end of a growing text occurred before, and what followed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace vx {

// A suffix of the text that occurred earlier. Shorter suffixes between two matches have the occurrences of the longer.
struct SuffixMatch {
  uint32_t length;    // tokens of the suffix
  uint32_t next;      // position of the token after its most recent earlier occurrence
  uint32_t count;     // earlier occurrences
  uint32_t branches;  // distinct tokens that followed them
  uint32_t state;
};

// The automaton of Blumer et al. (1985): a state is a set of end positions, its suffix link the next larger set.
//
// Appending is amortised O(1) apart from the walk along suffix links that keeps counts and the most recent occurrence;
// that walk ends after `kMaxWalk` states, so on texts of long periods short suffixes are counted too rarely and their
// occurrence is not the last one, but always one. At most 2 states and 3 transitions a token, about 120 bytes.
//
// At `max_tokens` the older half of the text is forgotten and the rest indexed anew, which is amortised O(1) too.
// One thread at a time.
class SuffixIndex {
 public:
  static constexpr uint32_t kMaxWalk = 32;

  // Throws ArgumentError unless 16 <= max_tokens <= 2^28.
  explicit SuffixIndex(uint64_t max_tokens);

  // Appends an id; returns how many of the oldest tokens were forgotten for it, so that positions fall by that many.
  uint32_t push(int32_t id);

  // What comes next begins another sequence: no match reaches across.
  uint32_t separate() { return push(--separator_); }

  // An empty text.
  void clear();

  // From now on ids extend the text and are matched, but are not found as earlier occurrences; only
  // the last thousand or two of them are kept.
  void freeze() { frozen_ = true; }
  bool frozen() const { return frozen_; }

  // Earlier occurrences of suffixes of the text, longest first, at most out.size(); returns how many.
  size_t matches(std::span<SuffixMatch> out) const;

  // The position after an earlier occurrence of a match whose next token is the one that followed most often, among the
  // first 16 that did; the id at the very end of the text is not counted yet.
  uint32_t most_frequent_next(const SuffixMatch& match) const;

  // Ids so far that were not forgotten; separators are negative.
  const std::vector<int32_t>& text() const { return text_; }
  // Positions from here on are not found as occurrences.
  uint32_t n_indexed() const { return n_indexed_; }
  uint64_t bytes() const;

 private:
  struct State {
    uint32_t length;
    uint32_t link;
    uint32_t end;    // position after the most recent occurrence that is counted
    uint32_t count;  // occurrences that are counted: all but the one at the end of the text
    uint32_t n_edges;
    uint32_t more;     // further transitions, a list in edges_
    int32_t first_id;  // the first transition, valid if n_edges > 0
    uint32_t first_to;
  };
  struct Edge {
    uint32_t from;
    int32_t id;
    uint32_t to;
    uint32_t next;
  };

  void index(int32_t id);
  void count_last();
  uint32_t* find(uint32_t state, int32_t id);
  const uint32_t* find(uint32_t state, int32_t id) const { return const_cast<SuffixIndex*>(this)->find(state, id); }
  void add_edge(uint32_t state, int32_t id, uint32_t to);
  void place(uint32_t edge);
  void match(int32_t id);

  uint64_t max_tokens_;
  bool frozen_ = false;
  int32_t separator_ = 0;
  uint32_t n_indexed_ = 0;
  uint32_t last_ = 0;          // the state of the whole indexed text
  uint32_t match_ = 0;         // the state of the longest suffix that occurred earlier …
  uint32_t match_length_ = 0;  // … and its length, which is less than the state's where not all of it matched
  std::vector<int32_t> text_;
  std::vector<State> states_;
  std::vector<Edge> edges_;
  std::vector<uint32_t> table_;  // open addressing over (from, id) -> index of an edge + 1; a power of two, half full
};

}  // namespace vx
