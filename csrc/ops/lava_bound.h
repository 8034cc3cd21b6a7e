// How far a read is from exact attention at most.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/lava_search.h"

namespace vx {

// The slots of a list that were not read: the sum of their weights in the read's own unit 2^-shift, exact, or as if all
// keys were their mean, which is the least that it can be.
struct LavaTail {
  int32_t list;
  double mass;
  bool is_exact;
  float mean_score;  // of the list's mean key
};

struct LavaReadState {
  const float* query;  // as the caller gave it
  float scale, shift;  // of the powers of two
  double read_mass;
  int64_t recent_begin, recent_end;
};

// With Z_l in [lo_l, hi_l] the true mass of a tail, Z^_l its estimate, v_l the mean value of its list and rho_l the
// radius of the values around it:
//   |o - o^| <= sum_l (hi_l rho_l + max|Z_l - Z^_l| |v_l - o^|) / (Z_read + sum_l lo_l),
// and not more than the distance from o^ to the farthest value. To that comes what rounding may do.
float lava_bound(const LavaBank& bank, const LavaRead& read, const LavaReadState& state,
                 const std::vector<LavaTail>& tails, const std::vector<int32_t>& used, const float* out);

}  // namespace vx
