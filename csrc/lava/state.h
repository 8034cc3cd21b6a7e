// Everything that decides what a bank answers from here on, as plain arrays: to save it, and to make it again.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lava/bank.h"

namespace vx {

struct BankState {
  // Of each slot that ever was: the list (-1: free) and its place there.
  std::vector<int32_t> lists, places;
  std::vector<int64_t> positions;
  std::vector<float> importance, key_scales, value_scales;
  std::vector<uint16_t> keys, values;  // units, [n_slots, key_units] and [n_slots, value_units]
  std::vector<int32_t> free_slots;     // the next one to be used first
  // Of each list that ever was.
  std::vector<int32_t> is_alive, no_split_below, merge_with, n_stirred;
  std::vector<float> centroids, key_anchors, value_anchors;
  std::vector<double> key_sums, value_sums, key_radii, value_radii, split_gains, merge_costs;
  std::vector<int32_t> jobs;     // [n, 4]
  std::vector<int64_t> history;  // splits, merges, moves; the next list to refine; credit of maintenance
  std::vector<float> key_basis, value_basis;
};

BankState bank_state(const LavaBank& bank);

// Throws ArgumentError for arrays that no bank with these options can have.
std::unique_ptr<LavaBank> make_bank(const BankOptions& options, Simd level, const BankState& state);

}  // namespace vx
