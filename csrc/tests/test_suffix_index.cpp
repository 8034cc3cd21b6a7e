// The suffix index against a search of the whole text, and the drafter on texts that copy, edit and forget.
#include <algorithm>
#include <random>

#include "common/errors.h"
#include "ngram/drafter.h"
#include "ngram/suffix_index.h"
#include "tests/check.h"

namespace {

using vx::NgramDrafter;
using vx::SuffixIndex;
using vx::SuffixMatch;
using Ids = std::vector<int32_t>;

// Positions after earlier occurrences of the last `length` tokens, of which something must follow.
std::vector<uint32_t> occurrences(const Ids& text, uint32_t n_indexed, uint32_t length) {
  std::vector<uint32_t> found;
  for (uint32_t end = length; end < std::min<size_t>(n_indexed, text.size()); ++end)
    if (std::equal(text.end() - length, text.end(), text.begin() + (end - length))) found.push_back(end);
  return found;
}

uint32_t longest_match(const Ids& text, uint32_t n_indexed) {
  uint32_t length = 0;
  while (length < text.size() && !occurrences(text, n_indexed, length + 1).empty()) ++length;
  return length;
}

// `exact`: counts and recency, which long suffix link chains leave behind.
void check_matches(const SuffixIndex& index, bool exact) {
  std::array<SuffixMatch, 64> matches;
  const size_t n = index.matches(matches);
  const Ids& text = index.text();
  VX_CHECK_EQ(n > 0 ? matches[0].length : 0, longest_match(text, index.n_indexed()));
  for (size_t i = 0; i < n; ++i) {
    const SuffixMatch& match = matches[i];
    if (i > 0) VX_CHECK(match.length < matches[i - 1].length);
    const auto found = occurrences(text, index.n_indexed(), match.length);
    VX_CHECK(std::find(found.begin(), found.end(), match.next) != found.end());
    const uint32_t frequent = index.most_frequent_next(match);
    VX_CHECK(std::find(found.begin(), found.end(), frequent) != found.end());
    if (!exact) continue;
    VX_CHECK_EQ(match.count, found.size());
    VX_CHECK_EQ(match.next, found.back());
    std::vector<int32_t> followers;
    for (uint32_t next : found) followers.push_back(text[next]);
    const auto times = [&](int32_t id) { return std::count(followers.begin(), followers.end(), id); };
    // The id at the very end of the text is not counted yet.
    for (int32_t id : followers) VX_CHECK(times(id) - (id == text.back()) <= times(text[frequent]));
    std::sort(followers.begin(), followers.end());
    followers.erase(std::unique(followers.begin(), followers.end()), followers.end());
    VX_CHECK_EQ(match.branches, followers.size());
  }
}

Ids random_text(std::mt19937& rng, size_t n, uint32_t n_ids) {
  Ids text(n);
  for (int32_t& id : text) id = static_cast<int32_t>(rng() % n_ids);
  return text;
}

VX_TEST(matches_are_those_of_a_search) {
  std::mt19937 rng(1);
  for (uint32_t n_ids : {1u, 2u, 3u, 10u, 1000u}) {
    SuffixIndex index(1 << 10);
    for (int32_t id : random_text(rng, n_ids == 1 ? 60 : 300, n_ids)) {
      index.push(id);
      check_matches(index, n_ids > 1);
    }
  }
}

VX_TEST(repeated_texts_with_separators) {
  std::mt19937 rng(2);
  const Ids base = random_text(rng, 60, 8);
  SuffixIndex index(1 << 10);
  for (int round = 0; round < 4; ++round) {
    for (int32_t id : base) {
      index.push(rng() % 12 == 0 ? static_cast<int32_t>(rng() % 8) : id);
      check_matches(index, true);
    }
    index.separate();
    std::array<SuffixMatch, 4> matches;
    VX_CHECK_EQ(index.matches(matches), 0u);
  }
}

VX_TEST(frozen_index_matches_only_what_it_holds) {
  std::mt19937 rng(3);
  SuffixIndex index(1 << 10);
  for (int32_t id : random_text(rng, 200, 5)) index.push(id);
  index.freeze();
  for (int32_t id : random_text(rng, 200, 6)) {
    index.push(id);
    VX_CHECK_EQ(index.n_indexed(), 200u);
    std::array<SuffixMatch, 64> matches;
    const size_t n = index.matches(matches);
    const uint32_t longest = longest_match(index.text(), 200);
    // The end of what is indexed has nothing after it, so a match that ends there may be reported one token longer.
    VX_CHECK(n == 0 ? longest == 0 : matches[0].length >= longest);
    for (size_t i = 0; i < n; ++i) VX_CHECK(matches[i].next <= 200);
  }
  const Ids indexed(index.text().begin(), index.text().begin() + 200);
  for (int i = 0; i < 10'000; ++i) index.push(7);
  VX_CHECK(index.text().size() < 5'000);
  VX_CHECK(std::equal(indexed.begin(), indexed.end(), index.text().begin()));
}

VX_TEST(the_older_half_is_forgotten) {
  std::mt19937 rng(4);
  SuffixIndex index(64);
  Ids all;
  uint32_t n_forgotten = 0;
  for (int32_t id : random_text(rng, 500, 3)) {
    n_forgotten += index.push(id);
    all.push_back(id);
    VX_CHECK(index.text().size() <= 64);
    VX_CHECK(std::equal(index.text().begin(), index.text().end(), all.begin() + n_forgotten, all.end()));
    check_matches(index, true);
  }
  VX_CHECK(n_forgotten > 400);
  VX_CHECK(index.bytes() < 64 * 200);
  VX_CHECK_THROWS(SuffixIndex(15), vx::ArgumentError, {});
}

// Drafts over `output` after `prompt`: accepted tokens, and steps.
std::pair<size_t, size_t> replay(NgramDrafter& drafter, const Ids& prompt, const Ids& output, uint32_t k) {
  drafter.push(prompt);
  size_t n_accepted = 0, n_steps = 0;
  for (size_t i = 0; i < output.size(); ++n_steps) {
    drafter.draft(k, 0.0f);
    VX_CHECK(drafter.ids().size() <= k);
    for (float p : drafter.probabilities()) VX_CHECK(p > 0.0f && p <= 1.0f);
    for (int32_t id : drafter.ids()) VX_CHECK(id >= 0);
    size_t n = 0;
    while (n < drafter.ids().size() && i + n < output.size() && drafter.ids()[n] == output[i + n]) ++n;
    n_accepted += n;
    const size_t end = std::min(output.size(), i + n + 1);
    drafter.push(std::span(output).subspan(i, end - i));
    i = end;
  }
  return {n_accepted, n_steps};
}

VX_TEST(a_copy_is_followed_across_edits) {
  std::mt19937 rng(5);
  const Ids prompt = random_text(rng, 600, 50'000);
  Ids output = prompt;
  output.erase(output.begin() + 500, output.begin() + 520);           // a deletion,
  output.insert(output.begin() + 400, {60'001, 60'002, 60'003});      // an insertion
  for (size_t i : {50, 100, 150, 200, 250, 300}) output[i] = 60'010;  // and replacements
  NgramDrafter drafter(1 << 12);
  const auto [n_accepted, n_steps] = replay(drafter, prompt, output, 16);
  // 580 / 17 = 35 steps if all were right; each replacement costs one more, new tokens and finding back some.
  VX_CHECK(n_steps <= 35 + 6 + 3 + 2 * 4);
  VX_CHECK(n_accepted + n_steps >= output.size());
}

// Few ids, so that a match of a few tokens says little: only the place of the copy tells how it goes on.
VX_TEST(a_copy_of_few_ids_is_followed_across_replacements) {
  std::mt19937 rng(9);
  const Ids prompt = random_text(rng, 2000, 5);
  Ids output = prompt;
  for (size_t i = 30; i < 2000; i += 34) output[i] = 60'000 + static_cast<int32_t>(i);
  NgramDrafter drafter(1 << 13);
  const auto [n_accepted, n_steps] = replay(drafter, prompt, output, 16);
  VX_CHECK(n_steps <= 140);  // two for each replacement; nearly 300 where matches alone decide
  VX_CHECK(n_accepted + n_steps >= output.size());
}

VX_TEST(a_renaming_is_learned) {
  std::mt19937 rng(6);
  Ids prompt = random_text(rng, 1000, 50'000);
  for (size_t i = 10; i < 1000; i += 20) prompt[i] = 60'000;
  Ids output = prompt;
  std::replace(output.begin(), output.end(), 60'000, 60'001);
  NgramDrafter drafter(1 << 12);
  const auto [n_accepted, n_steps] = replay(drafter, prompt, output, 16);
  VX_CHECK(n_steps <= 1000 / 17 + 8);  // and not one more for each of the 50 places
}

VX_TEST(hostile_texts_keep_the_drafter_in_bounds) {
  std::mt19937 rng(7);
  for (uint32_t max_tokens : {16u, 40u, 300u})
    for (uint32_t n_ids : {1u, 2u, 4u, 50u}) {
      NgramDrafter drafter(max_tokens);
      const Ids base = random_text(rng, 120, n_ids);
      for (int round = 0; round < 12; ++round) {
        Ids edited = base;
        for (int e = 0; e < 8; ++e) {
          const size_t at = rng() % edited.size();
          const auto place = edited.begin() + static_cast<ptrdiff_t>(at);
          if (e % 3 == 0)
            edited.erase(place, place + static_cast<ptrdiff_t>(std::min<size_t>(5, edited.size() - at) / 2));
          else if (e % 3 == 1)
            edited.insert(place, 1 + rng() % 20, static_cast<int32_t>(rng() % n_ids));
          else
            *place = static_cast<int32_t>(rng() % n_ids);
        }
        if (round % 3 == 1) drafter.separate();
        if (round == 6) drafter.restart();
        if (round == 9) drafter.freeze();
        replay(drafter, {}, edited, 1 + rng() % 40);
      }
    }
}

VX_TEST(equal_inputs_give_equal_drafts) {
  std::mt19937 rng(8);
  const Ids text = random_text(rng, 400, 6);
  NgramDrafter one(1 << 10), other(1 << 10);
  one.push(text);
  for (int32_t id : text) other.push({&id, 1});
  one.draft(8, 0.0f);
  other.draft(8, 0.0f);
  VX_CHECK(std::ranges::equal(one.ids(), other.ids()));
  VX_CHECK(std::ranges::equal(one.probabilities(), other.probabilities()));
  other.draft(32, 0.0f);  // a draft that was not accepted leaves nothing behind
  other.draft(8, 0.0f);
  VX_CHECK(std::ranges::equal(one.ids(), other.ids()));
  const Ids bad = {1, -1};
  VX_CHECK_THROWS(one.push(bad), vx::ArgumentError, {});
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
