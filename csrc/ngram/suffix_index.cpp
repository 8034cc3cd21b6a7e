#include "ngram/suffix_index.h"

#include <algorithm>
#include <string>

#include "common/errors.h"

namespace vx {
namespace {

constexpr uint32_t kRoot = 0, kNone = UINT32_MAX;
constexpr uint64_t kMinTokens = 16, kMaxTokens = uint64_t{1} << 28;
constexpr uint32_t kMaxBranches = 16;
constexpr uint32_t kFrozenTail = 1024;

uint64_t hash(uint32_t state, int32_t id) {
  const uint64_t key = (uint64_t{state} << 32 | static_cast<uint32_t>(id)) * 0x9e3779b97f4a7c15u;
  return key ^ key >> 29;
}

}  // namespace

SuffixIndex::SuffixIndex(uint64_t max_tokens) : max_tokens_(max_tokens) {
  if (max_tokens < kMinTokens || max_tokens > kMaxTokens)
    throw ArgumentError("[suffix_index] max_tokens must be from 16 to 2^28, got " + std::to_string(max_tokens));
  clear();
}

void SuffixIndex::clear() {
  frozen_ = false;
  text_.clear();
  states_.assign(1, State{0, kNone, 0, 0, 0, kNone, 0, 0});
  edges_.clear();
  table_.assign(64, 0);
  last_ = match_ = kRoot;
  match_length_ = n_indexed_ = 0;
}

uint32_t SuffixIndex::push(int32_t id) {
  uint32_t n_forgotten = 0;
  if (text_.size() >= max_tokens_ && !frozen_) {
    const std::vector<int32_t> kept(text_.end() - static_cast<ptrdiff_t>(max_tokens_ / 2), text_.end());
    n_forgotten = static_cast<uint32_t>(text_.size() - kept.size());
    clear();
    for (int32_t old : kept) index(old);
  }
  if (frozen_) {
    if (text_.size() >= n_indexed_ + 2 * kFrozenTail)
      text_.erase(text_.begin() + n_indexed_, text_.begin() + n_indexed_ + kFrozenTail);
    text_.push_back(id);
    match(id);
  } else {
    index(id);
  }
  return n_forgotten;
}

// Follows the longest suffix of the text through an automaton that does not grow.
void SuffixIndex::match(int32_t id) {
  while (true) {
    if (const uint32_t* to = find(match_, id)) {
      match_ = *to;
      ++match_length_;
      return;
    }
    if (match_ == kRoot) break;
    match_ = states_[match_].link;
    match_length_ = states_[match_].length;
  }
  match_length_ = 0;
}

void SuffixIndex::index(int32_t id) {
  count_last();
  text_.push_back(id);
  n_indexed_ = static_cast<uint32_t>(text_.size());
  const auto fresh = static_cast<uint32_t>(states_.size());
  states_.push_back({states_[last_].length + 1, kRoot, n_indexed_, 0, 0, kNone, 0, 0});
  uint32_t p = last_;
  uint32_t* to = nullptr;
  while (p != kNone && (to = find(p, id)) == nullptr) {
    add_edge(p, id, fresh);
    p = states_[p].link;
  }
  if (p != kNone) {
    const uint32_t q = *to;
    if (states_[q].length == states_[p].length + 1) {
      states_[fresh].link = q;
    } else {
      const auto clone = static_cast<uint32_t>(states_.size());
      State copy = states_[q];
      copy.length = states_[p].length + 1;
      copy.n_edges = 0;
      copy.more = kNone;
      states_.push_back(copy);
      if (states_[q].n_edges > 0) add_edge(clone, states_[q].first_id, states_[q].first_to);
      for (uint32_t e = states_[q].more; e != kNone; e = edges_[e].next) add_edge(clone, edges_[e].id, edges_[e].to);
      states_[q].link = states_[fresh].link = clone;
      while (p != kNone && (to = find(p, id)) != nullptr && *to == q) {
        *to = clone;
        p = states_[p].link;
      }
    }
  }
  last_ = fresh;
  match_ = states_[fresh].link;
  match_length_ = states_[match_].length;
}

// The end of the text is an earlier occurrence as soon as an id follows it.
void SuffixIndex::count_last() {
  uint32_t state = last_;
  for (uint32_t step = 0; step < kMaxWalk && state != kRoot; ++step) {
    states_[state].end = n_indexed_;
    ++states_[state].count;
    state = states_[state].link;
  }
}

uint32_t* SuffixIndex::find(uint32_t state, int32_t id) {
  State& s = states_[state];
  if (s.n_edges == 0) return nullptr;
  if (s.first_id == id) return &s.first_to;
  if (s.n_edges == 1) return nullptr;
  const size_t mask = table_.size() - 1;
  for (size_t slot = hash(state, id) & mask; table_[slot] != 0; slot = (slot + 1) & mask) {
    Edge& edge = edges_[table_[slot] - 1];
    if (edge.from == state && edge.id == id) return &edge.to;
  }
  return nullptr;
}

void SuffixIndex::add_edge(uint32_t state, int32_t id, uint32_t to) {
  State& s = states_[state];
  if (s.n_edges++ == 0) {
    s.first_id = id;
    s.first_to = to;
    return;
  }
  edges_.push_back({state, id, to, s.more});
  s.more = static_cast<uint32_t>(edges_.size()) - 1;
  if (2 * edges_.size() > table_.size()) {
    table_.assign(2 * table_.size(), 0);
    for (uint32_t e = 0; e < edges_.size(); ++e) place(e);
  } else {
    place(s.more);
  }
}

void SuffixIndex::place(uint32_t edge) {
  const size_t mask = table_.size() - 1;
  size_t slot = hash(edges_[edge].from, edges_[edge].id) & mask;
  while (table_[slot] != 0) slot = (slot + 1) & mask;
  table_[slot] = edge + 1;
}

size_t SuffixIndex::matches(std::span<SuffixMatch> out) const {
  size_t n = 0;
  uint32_t length = match_length_;
  for (uint32_t state = match_; n < out.size() && state != kRoot; length = states_[state].length) {
    const State& s = states_[state];
    out[n++] = {length, s.end, s.count, s.n_edges, state};
    state = s.link;
  }
  return n;
}

uint32_t SuffixIndex::most_frequent_next(const SuffixMatch& match) const {
  const State& s = states_[match.state];
  if (s.n_edges <= 1) return match.next;
  uint32_t best = s.first_to, n_seen = 1;
  for (uint32_t e = s.more; e != kNone && n_seen < kMaxBranches; e = edges_[e].next, ++n_seen)
    if (states_[edges_[e].to].count > states_[best].count) best = edges_[e].to;
  return states_[best].count > 0 ? states_[best].end - 1 : match.next;
}

uint64_t SuffixIndex::bytes() const {
  return text_.capacity() * sizeof(int32_t) + states_.capacity() * sizeof(State) + edges_.capacity() * sizeof(Edge) +
         table_.capacity() * sizeof(uint32_t);
}

}  // namespace vx
