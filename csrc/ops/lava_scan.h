// One query over a bank: which lists it probes, and the scores of all their slots.
#pragma once

#include <memory>
#include <vector>

#include "common/pool.h"
#include "lava/query.h"
#include "lava/top_k.h"

namespace vx {

class LavaScan {
 public:
  struct Block {
    const KeyBlock* keys;
    int64_t n_slots;
  };
  struct Probed {
    int32_t list;
    size_t first_block;  // of blocks()
  };

  // With a pool its threads share the work. `query` [dim] outlives this. The lists with the largest scores of their
  // centroids are probed, n_probe of them that are not empty.
  LavaScan(const Store& store, Pool* pool, const float* query, int64_t n_probe);

  // Scores the slots of the probed lists; gives the best k of them in order.
  std::vector<Scored> top(int64_t k);
  void score_all();

  const std::vector<Probed>& probed() const { return probed_; }  // the best first
  const std::vector<Block>& blocks() const { return blocks_; }
  const float* scores(size_t block) const { return scores_.get() + block * kLavaLanes; }

 private:
  template <class F>
  void each_block(F&& fn);

  const ListNeeds& needs(int32_t list) const { return store_.needs()[static_cast<size_t>(list)]; }

  const Store& store_;
  Pool* pool_;
  PreparedQuery query_;
  std::vector<Probed> probed_;
  std::vector<Block> blocks_;
  std::unique_ptr<float[]> scores_;
};

}  // namespace vx
