// Scores of a block of keys or centroids: every lane is one chain over the dimensions. Kernel text.
#pragma once

#include "ops/lava_kernels.h"
#include "ops/lava_vectors.inl.h"

namespace vx::VX_SIMD_NS {

constexpr int kGroups = static_cast<int>(kLavaLanes) / kLanes;

// Queries whose sums stay in registers beside one group of lanes.
#if defined(VX_LEVEL_AVX512)
constexpr int kTileQueries = 8;
#elif defined(VX_LEVEL_AVX2)
constexpr int kTileQueries = 6;
#else
constexpr int kTileQueries = 4;
#endif

// kQueries queries by kWidth groups of lanes from `first` on.
template <int kQueries, int kWidth>
VX_INLINE void score_tile(const float* block, const float* queries, int64_t dim, int first, float* out) {
  f32x16 sum[kQueries][kWidth];
  for (int i = 0; i < kQueries; ++i)
    for (int g = 0; g < kWidth; ++g) sum[i][g] = set1(0.0f);
  for (int64_t j = 0; j < dim; ++j) {
    f32x16 lanes[kWidth];
    for (int g = 0; g < kWidth; ++g) lanes[g] = load(block + j * kLavaLanes + (first + g) * kLanes);
    for (int i = 0; i < kQueries; ++i) {
      const f32x16 q = set1(queries[i * dim + j]);
      for (int g = 0; g < kWidth; ++g) sum[i][g] = fma(q, lanes[g], sum[i][g]);
    }
  }
  for (int i = 0; i < kQueries; ++i)
    for (int g = 0; g < kWidth; ++g) store(out + i * kLavaLanes + (first + g) * kLanes, sum[i][g]);
}

static void score_float(const float* block, const float* queries, int64_t n_queries, int64_t dim, float* out) {
  const int64_t n_tiled = n_queries / kTileQueries * kTileQueries;
  // A group of lanes stays in the first cache for all queries.
  if (n_tiled > 0)
    for (int first = 0; first < kGroups; ++first)
      for (int64_t q = 0; q < n_tiled; q += kTileQueries)
        score_tile<kTileQueries, 1>(block, queries + q * dim, dim, first, out + q * kLavaLanes);
  for (int64_t q = n_tiled; q < n_queries; ++q)
    score_tile<1, kGroups>(block, queries + q * dim, dim, 0, out + q * kLavaLanes);
}

static void assign(const float* block, const float* bias, const float* queries, int64_t n_queries, int64_t dim,
                   int32_t first, float* best, int32_t* list) {
  constexpr int64_t kQueries = 4 * kTileQueries;
  float scores[kQueries * kLavaLanes];
  for (int64_t q = 0; q < n_queries; q += kQueries) {
    const int64_t n = n_queries - q < kQueries ? n_queries - q : kQueries;
    score_float(block, queries + q * dim, n, dim, scores);
    for (int64_t i = 0; i < n; ++i) {
      float* s = scores + i * kLavaLanes;
      float most[kLanes];
      for (int lane = 0; lane < kLavaLanes; ++lane) s[lane] += bias[lane];
      for (int lane = 0; lane < kLanes; ++lane) most[lane] = s[lane];
      for (int g = 1; g < kGroups; ++g)
        for (int lane = 0; lane < kLanes; ++lane) {
          const float x = s[g * kLanes + lane];
          most[lane] = x > most[lane] ? x : most[lane];
        }
      float largest = most[0];
      for (int lane = 1; lane < kLanes; ++lane) largest = most[lane] > largest ? most[lane] : largest;
      if (!(largest > best[q + i])) continue;
      int lane = 0;
      while (s[lane] != largest) ++lane;
      best[q + i] = largest;
      list[q + i] = first + lane;
    }
  }
}

// A unit of 64 keys is two cache lines; an address that is none does no harm.
VX_INLINE void fetch_ahead(const LavaQuery& query, int64_t unit) {
  if (query.ahead == nullptr) return;
  __builtin_prefetch(query.ahead + unit * kLavaLanes, 0, 2);
  __builtin_prefetch(query.ahead + unit * kLavaLanes + kLavaLanes / 2, 0, 2);
}

static void score_half(const uint16_t* units, const float*, const LavaQuery& query, int64_t n_units, float* out) {
  f32x16 sum[kGroups];
  for (int g = 0; g < kGroups; ++g) sum[g] = set1(0.0f);
  for (int64_t j = 0; j < n_units; ++j) {
    fetch_ahead(query, j);
    const f32x16 q = set1(query.values[j]);
    for (int g = 0; g < kGroups; ++g) sum[g] = fma(q, load_half(units + j * kLavaLanes + g * kLanes), sum[g]);
  }
  for (int g = 0; g < kGroups; ++g) store(out + g * kLanes, sum[g]);
}

static void score_int8(const uint16_t* units, const float* scales, const LavaQuery& query, int64_t n_units,
                       float* out) {
  i32x16 sum[kGroups];
  for (int g = 0; g < kGroups; ++g) sum[g] = set1_i32(0);
  for (int64_t j = 0; j < n_units; ++j) {
    fetch_ahead(query, j);
    for (int g = 0; g < kGroups; ++g)
      sum[g] = add_products(sum[g], units + j * kLavaLanes + g * kLanes, query.pairs[j]);
  }
  for (int g = 0; g < kGroups; ++g)
    store(out + g * kLanes, mul(to_float(sum[g]), mul(load(scales + g * kLanes), set1(query.scale))));
}

// Sums of codes 0..3 times bytes stay below 2^15 in 16 bits for 8 units.
static void score_2bit(const uint16_t* units, const float* scales, const LavaQuery& query, int64_t n_units,
                       float* out) {
  i32x16 sum[kGroups];
  for (int g = 0; g < kGroups; ++g) sum[g] = set1_i32(query.offset);
  for (int64_t first = 0; first < n_units; first += 8) {
    const int64_t last = first + 8 < n_units ? first + 8 : n_units;
    for (int g = 0; g < kGroups; ++g) {
      i16x16 part = zero_i16();
      for (int64_t j = first; j < last; ++j)
        part = add_code_products(part, units + j * kLavaLanes + g * kLanes, query.pairs + 4 * j);
      sum[g] = add_twice(sum[g], part);
    }
  }
  for (int g = 0; g < kGroups; ++g)
    store(out + g * kLanes, mul(to_float(sum[g]), mul(load(scales + g * kLanes), set1(query.scale))));
}

static uint64_t at_least(const float* scores, float threshold) {
  uint64_t bits = 0;
  for (int g = 0; g < kGroups; ++g)
    bits |= static_cast<uint64_t>(at_least_bits(load(scores + g * kLanes), set1(threshold))) << (g * kLanes);
  return bits;
}

}  // namespace vx::VX_SIMD_NS
