#include "ops/lava_scan.h"

#include <algorithm>

namespace vx {
namespace {

// Blocks of keys, and of centroids, below which waking other threads costs more than the work.
constexpr size_t kBlocksToShare = 16;
constexpr size_t kBlocksATime = 4;

void offer_lanes(TopK& top, uint64_t lanes, const float* scores, const int32_t* ids) {
  for (; lanes != 0; lanes &= lanes - 1) {
    const int lane = __builtin_ctzll(lanes);
    top.offer({scores[lane], ids[lane]});
  }
}

}  // namespace

LavaScan::LavaScan(const Store& store, Pool* pool, const float* query, int64_t n_probe)
    : store_(store), pool_(pool), query_(store.options.contents, query, store.options.dim) {
  const auto n_blocks = static_cast<size_t>(store.n_lane_blocks());
  const auto scores = std::make_unique_for_overwrite<float[]>(n_blocks * kLavaLanes);
  const auto score = [&](int64_t block, int) {
    store.ops.score_float(store.centroids().block(block), query, 1, store.options.dim,
                          scores.get() + block * kLavaLanes);
  };
  if (pool == nullptr || n_blocks < kBlocksToShare)
    for (size_t block = 0; block < n_blocks; ++block) score(static_cast<int64_t>(block), 0);
  else
    pool->threads.for_each(static_cast<int64_t>(n_blocks), score);

  TopK top(std::min<int64_t>(n_probe, store.counters().n_lists));
  for (int32_t i = 0; i < store.counters().n_lists; ++i)
    if (scores[static_cast<size_t>(i)] >= top.threshold() && store.list(i).head.count > 0)
      top.offer({scores[static_cast<size_t>(i)], i});
  for (const Scored& one : top.sorted()) {
    probed_.push_back({one.id, blocks_.size()});
    const ListHead& head = store.list(one.id).head;
    int64_t left = head.count;
    for (int32_t b = head.first; b >= 0; left -= kLavaLanes) {
      const KeyBlock& block = store.block(b);
      blocks_.push_back({&block, std::min(left, kLavaLanes)});
      b = block.next;
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
    query_.score(store_, *block.keys, scores);
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
