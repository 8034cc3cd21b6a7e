#include "ops/lava_scan.h"

#include <algorithm>

namespace vx {
namespace {

// Blocks of keys, and of centroids, below which waking other threads costs more than the work.
constexpr size_t kBlocksToShare = 16;
constexpr size_t kBlocksATime = 4;
// From this many blocks of centroids on their bounds are looked at first.
constexpr int64_t kCoarseBlocks = 8;

void offer_lanes(TopK& top, uint64_t lanes, const float* scores, const int32_t* ids) {
  for (; lanes != 0; lanes &= lanes - 1) {
    const int lane = __builtin_ctzll(lanes);
    top.offer({scores[lane], ids[lane]});
  }
}

// Offers every list that has slots.
void offer_lists(const Store& store, const float* query, TopK& top) {
  float scores[kLavaLanes];
  for (int64_t block = 0; block < store.n_lane_blocks(); ++block) {
    store.ops.score_float(store.directions().block(block), query, 1, store.options.dim, scores);
    for (int64_t lane = 0; lane < kLavaLanes; ++lane) {
      const int64_t i = block * kLavaLanes + lane;
      if (i < store.counters().n_lists && store.needs()[static_cast<size_t>(i)].count > 0)
        top.offer({scores[lane], static_cast<int32_t>(i)});
    }
  }
}

// The same without the lists that cannot be among the best.
void offer_near_lists(const Store& store, Pool* pool, const float* query, TopK& top) {
  const int64_t dim = store.options.dim, n_blocks = store.n_lane_blocks();
  const CoarseCentroids::Bounds bounds = store.coarse().bounds(store.ops, pool, query, n_blocks);
  const auto each_above = [&](const float* values, auto threshold, auto&& fn) {
    for (int64_t block = 0; block < n_blocks; ++block)
      for (uint64_t bits = store.ops.at_least(values + block * kLavaLanes, threshold()); bits != 0; bits &= bits - 1) {
        const int64_t i = block * kLavaLanes + __builtin_ctzll(bits);
        if (i < store.counters().n_lists && store.needs()[static_cast<size_t>(i)].count > 0)
          fn(static_cast<int32_t>(i));
      }
  };
  TopK surely = top;
  each_above(
      bounds.lower.get(), [&] { return surely.threshold(); },
      [&](int32_t i) { surely.offer({bounds.lower[static_cast<size_t>(i)], i}); });
  std::vector<int32_t> near;
  each_above(
      bounds.upper.get(), [&] { return surely.threshold(); },
      [&](int32_t i) {
        near.push_back(i);
        for (int64_t j = 0; j < dim; j += 16) __builtin_prefetch(store.direction(i) + j);
        __builtin_prefetch(&store.block(store.needs()[static_cast<size_t>(i)].first).next);
      });
  static thread_local std::vector<float> lanes;  // [dim, 64]; those of no list hold what they held
  lanes.resize(static_cast<size_t>(dim * kLavaLanes));
  for (size_t first = 0; first < near.size(); first += kLavaLanes) {
    const size_t n = std::min<size_t>(kLavaLanes, near.size() - first);
    for (size_t lane = 0; lane < n; ++lane) {
      const float* direction = store.direction(near[first + lane]);
      for (int64_t j = 0; j < dim; ++j) lanes[static_cast<size_t>(j * kLavaLanes) + lane] = direction[j];
    }
    float scores[kLavaLanes];
    store.ops.score_float(lanes.data(), query, 1, dim, scores);
    for (size_t lane = 0; lane < n; ++lane) top.offer({scores[lane], near[first + lane]});
  }
}

}  // namespace

LavaScan::LavaScan(const Store& store, Pool* pool, const float* query, int64_t n_probe)
    : store_(store), pool_(pool), query_(store.options.contents, query, store.options.dim) {
  TopK top(std::min<int64_t>(n_probe, store.counters().n_lists));
  if (store.n_lane_blocks() < kCoarseBlocks)
    offer_lists(store, query, top);
  else
    offer_near_lists(store, pool, query, top);
  const std::vector<Scored>& best = top.sorted();
  size_t n_blocks = 0;
  for (const Scored& one : best) {
    probed_.push_back({one.id, n_blocks});
    n_blocks += static_cast<size_t>((needs(one.id).count + kLavaLanes - 1) / kLavaLanes);
  }
  // The chains of all lists side by side: the next block of each is on its way while the others' are looked at.
  blocks_.resize(n_blocks);
  std::vector<int32_t> next;
  for (const Scored& one : best) next.push_back(needs(one.id).first);
  for (int64_t number = 0, n_open = 1; n_open > 0; ++number) {
    n_open = 0;
    for (size_t i = 0; i < best.size(); ++i) {
      if (next[i] < 0) continue;
      const KeyBlock& block = store.block(next[i]);
      blocks_[probed_[i].first_block + static_cast<size_t>(number)] = {
          &block, std::min(kLavaLanes, needs(best[i].id).count - number * kLavaLanes)};
      next[i] = block.next;
      if (next[i] < 0) continue;
      __builtin_prefetch(&store.block(next[i]).next);
      ++n_open;
    }
  }
  scores_ = std::make_unique_for_overwrite<float[]>(std::max<size_t>(1, blocks_.size()) * kLavaLanes);
}

// fn(block, worker) for all blocks.
template <class F>
void LavaScan::each_block(F&& fn) {
  if (pool_ == nullptr || blocks_.size() < kBlocksToShare) {
    for (size_t i = 0; i < blocks_.size(); ++i) fn(i, size_t{0});
    return;
  }
  const size_t n = (blocks_.size() + kBlocksATime - 1) / kBlocksATime;
  pool_->threads.for_each(static_cast<int64_t>(n), [&](int64_t piece, int worker) {
    const size_t first = static_cast<size_t>(piece) * kBlocksATime;
    for (size_t i = first; i < std::min(first + kBlocksATime, blocks_.size()); ++i) fn(i, static_cast<size_t>(worker));
  });
}

std::vector<Scored> LavaScan::top(int64_t k) {
  const size_t n_workers = pool_ == nullptr ? 1 : static_cast<size_t>(pool_->threads.size());
  std::vector<TopK> tops(n_workers, TopK(k));
  each_block([&](size_t i, size_t worker) {
    const Block& block = blocks_[i];
    float* scores = scores_.get() + i * kLavaLanes;
    query_.score(store_, *block.keys, scores, i + 1 < blocks_.size() ? blocks_[i + 1].keys : nullptr);
    uint64_t lanes = store_.ops.at_least(scores, tops[worker].threshold());
    if (block.n_slots < kLavaLanes) lanes &= (uint64_t{1} << block.n_slots) - 1;
    offer_lanes(tops[worker], lanes, scores, block.keys->ids);
  });
  for (size_t worker = 1; worker < n_workers; ++worker) tops[0].offer(tops[worker]);
  return tops[0].sorted();
}

void LavaScan::score_all() {
  each_block([&](size_t i, size_t) { query_.score(store_, *blocks_[i].keys, scores_.get() + i * kLavaLanes); });
}

}  // namespace vx
