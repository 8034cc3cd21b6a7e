#include "c3/policy.h"

#include <algorithm>
#include <numeric>

namespace vx {
namespace {

// Slots beyond the least take at most this part of the budget: their bytes are never hit.
constexpr uint64_t kExtraSlotShare = 16;

uint64_t sum_bytes(const std::vector<uint64_t>& stored_bytes) {
  return std::accumulate(stored_bytes.begin(), stored_bytes.end(), uint64_t{0});
}

uint64_t largest(const std::vector<uint64_t>& stored_bytes) {
  return stored_bytes.empty() ? 0 : *std::max_element(stored_bytes.begin(), stored_bytes.end());
}

ResidencyPlan everything_resident(const PlanInput& input) {
  ResidencyPlan plan;
  plan.resident.assign(input.stored_bytes.size(), true);
  plan.resident_bytes = sum_bytes(input.stored_bytes);
  return plan;
}

// Makes room bytes of `tiles` resident so that any stretch of them holds its share (error diffusion over bytes): the
// missing ones are then evenly spaced and reading them overlaps the work on the others. Returns the room left.
uint64_t spread(const std::vector<uint64_t>& stored_bytes, const std::vector<int64_t>& tiles, uint64_t room,
                ResidencyPlan* plan) {
  uint64_t total = 0, seen = 0, used = 0;
  for (int64_t t : tiles) total += stored_bytes[t];
  const auto keep = [&](int64_t t) {
    plan->resident[t] = true;
    used += stored_bytes[t];
  };
  const double share = total == 0 ? 0.0 : std::min(1.0, static_cast<double>(room) / static_cast<double>(total));
  for (int64_t t : tiles) {
    seen += stored_bytes[t];
    const uint64_t due = share == 1.0 ? seen : static_cast<uint64_t>(static_cast<double>(seen) * share);
    if (used + stored_bytes[t] <= std::min(due, room)) keep(t);
  }
  for (int64_t t : tiles)  // what rounding left over still holds a small tile or two
    if (!plan->resident[t] && used + stored_bytes[t] <= room) keep(t);
  plan->resident_bytes += used;
  return room - used;
}

class StablePolicy : public Policy {
 public:
  ResidencyPlan plan(const PlanInput& input) const override {
    const auto& stored = input.stored_bytes;
    if (input.budget_bytes >= sum_bytes(stored)) return everything_resident(input);
    ResidencyPlan plan;
    plan.resident.assign(stored.size(), false);
    plan.slot_bytes = largest(stored);
    plan.n_slots = kMinSlots;
    uint64_t room = input.budget_bytes - kMinSlots * plan.slot_bytes;
    uint64_t sweep_bytes = 0;
    std::vector<bool> in_sweep(stored.size(), false);
    for (int64_t t : input.sweep) {
      sweep_bytes += stored[t];
      in_sweep[t] = true;
    }
    if (room < sweep_bytes) {
      const uint64_t extra = std::min({static_cast<uint64_t>(input.prefetch_depth) + 2, room / plan.slot_bytes,
                                       input.budget_bytes / kExtraSlotShare / plan.slot_bytes});
      plan.n_slots += static_cast<int>(extra);
      room -= extra * plan.slot_bytes;
    }
    room = spread(stored, input.sweep, room, &plan);
    std::vector<int64_t> looked_up;
    for (size_t t = 0; t < stored.size(); ++t)
      if (!in_sweep[t]) looked_up.push_back(static_cast<int64_t>(t));
    spread(stored, looked_up, room, &plan);
    return plan;
  }
};

class LruPolicy : public Policy {
 public:
  ResidencyPlan plan(const PlanInput& input) const override {
    if (input.budget_bytes >= sum_bytes(input.stored_bytes)) return everything_resident(input);
    ResidencyPlan plan;
    plan.resident.assign(input.stored_bytes.size(), false);
    plan.slot_bytes = largest(input.stored_bytes);
    plan.n_slots = static_cast<int>(std::min<uint64_t>(input.budget_bytes / plan.slot_bytes, plan.resident.size()));
    plan.prefetch = false;
    return plan;
  }
};

}  // namespace

std::unique_ptr<Policy> make_policy(PolicyKind kind) {
  if (kind == PolicyKind::lru) return std::make_unique<LruPolicy>();
  return std::make_unique<StablePolicy>();
}

uint64_t minimum_budget(const std::vector<uint64_t>& stored_bytes) {
  return std::min(sum_bytes(stored_bytes), kMinSlots * largest(stored_bytes));
}

}  // namespace vx
