// Who stays in RAM: a policy turns budget, tile sizes and sweep into a residency plan; the pager carries it out.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace vx {

enum class PolicyKind { stable, lru };

constexpr int kMinSlots = 3;  // one being computed on, one being read, one for a lookup

struct PlanInput {
  uint64_t budget_bytes;                      // >= minimum_budget(stored_bytes)
  const std::vector<uint64_t>& stored_bytes;  // by tile id
  const std::vector<uint64_t>& prefix_bytes;  // by tile id, stored; 0 for a tile that has no residual
  const std::vector<int64_t>& sweep;          // tile ids in sweep order; a tile not in it is only looked up
  const std::vector<int64_t>& drafted;        // of the sweep, in its order: tiles that drafts want whole
  int prefetch_depth;
  bool keeps_prefixes = true;  // of the whole sweep, where the budget holds them
};

struct ResidencyPlan {
  std::vector<bool> resident;     // by tile id: stays once it was read
  std::vector<bool> prefix_kept;  // by tile id: its prefix stays, resident or not; only the residual takes a slot
  uint64_t resident_bytes = 0;    // stored bytes of resident tiles and kept prefixes
  int n_slots = 0;                // slots that all other bytes pass through; 0 when every tile is resident
  uint64_t slot_bytes = 0;        // the most that any tile puts into a slot
  bool prefetch = true;
  bool adapts = true;  // residents make room for tiles that are used more
};

class Policy {
 public:
  virtual ~Policy() = default;
  // resident_bytes + n_slots * slot_bytes never exceeds the budget.
  virtual ResidencyPlan plan(const PlanInput& input) const = 0;
};

// stable: a fixed subset, spread evenly over the sweep, stays; the rest streams through a small prefetched ring. On a
// cyclic scan this hits the budget's fraction, which is optimal, where LRU hits nothing. Where the budget holds every
// prefix of the sweep, they all stay and only residuals stream: slots are about half as large, so that the ring costs
// little even near the full budget, and the resident prefixes are a low-precision copy of the model. Tiles that drafts
// want whole are the first to stay then, if they leave half of the room to the others. Where access turns
// out to be skewed, residents make room, and kept prefixes go if they lose (see Adaptation).
// lru: the whole budget is slots, the least recently used one is replaced, nothing is prefetched.
std::unique_ptr<Policy> make_policy(PolicyKind kind);

uint64_t minimum_budget(const std::vector<uint64_t>& stored_bytes);

}  // namespace vx
