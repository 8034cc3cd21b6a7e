#include "c3/policy.h"

#include <algorithm>
#include <numeric>

namespace vx {
namespace {

// The ring takes at most this part of the bytes that a sweep must read anyway, where that holds the least ring: its
// bytes are never hit, so they are what the plan reads more than the best possible one.
constexpr uint64_t kRingShare = 55;

uint64_t sum_bytes(const std::vector<uint64_t>& stored_bytes) {
  return std::accumulate(stored_bytes.begin(), stored_bytes.end(), uint64_t{0});
}

uint64_t largest(const std::vector<uint64_t>& stored_bytes) {
  return stored_bytes.empty() ? 0 : *std::max_element(stored_bytes.begin(), stored_bytes.end());
}

ResidencyPlan everything_resident(const PlanInput& input) {
  ResidencyPlan plan;
  plan.resident.assign(input.stored_bytes.size(), true);
  plan.prefix_kept.assign(input.stored_bytes.size(), false);
  plan.resident_bytes = sum_bytes(input.stored_bytes);
  return plan;
}

// Makes room bytes of `tiles`, whose sizes are `bytes`, resident so that any stretch of them holds its share (error
// diffusion over bytes): the missing ones are then evenly spaced and reading them overlaps the work on the others.
// Returns the room left.
uint64_t spread(const std::vector<uint64_t>& bytes, const std::vector<int64_t>& tiles, uint64_t room,
                ResidencyPlan* plan) {
  uint64_t total = 0, seen = 0, used = 0;
  for (int64_t t : tiles) total += bytes[t];
  const auto keep = [&](int64_t t) {
    plan->resident[t] = true;
    used += bytes[t];
  };
  const double share = total == 0 ? 0.0 : std::min(1.0, static_cast<double>(room) / static_cast<double>(total));
  for (int64_t t : tiles) {
    seen += bytes[t];
    const uint64_t due = share == 1.0 ? seen : static_cast<uint64_t>(static_cast<double>(seen) * share);
    if (used + bytes[t] <= std::min(due, room)) keep(t);
  }
  for (int64_t t : tiles)  // what rounding left over still holds a small tile or two
    if (!plan->resident[t] && used + bytes[t] <= room) keep(t);
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
    plan.prefix_kept.assign(stored.size(), false);
    // What a tile that is not resident puts into a slot, all prefixes of the sweep being kept.
    std::vector<uint64_t> streamed = stored;
    std::vector<bool> in_sweep(stored.size(), false);
    uint64_t sweep_bytes = 0, prefixes = 0;
    for (int64_t t : input.sweep) {
      in_sweep[t] = true;
      sweep_bytes += stored[t];
      prefixes += input.prefix_bytes[t];
      streamed[t] -= input.prefix_bytes[t];
    }
    if (input.keeps_prefixes && prefixes + kMinSlots * largest(streamed) <= input.budget_bytes)
      plan.resident_bytes = prefixes;
    else
      streamed = stored;
    plan.slot_bytes = largest(streamed);
    plan.n_slots = kMinSlots;
    uint64_t room = input.budget_bytes - plan.resident_bytes - kMinSlots * plan.slot_bytes;
    if (room < sweep_bytes - plan.resident_bytes) {
      const uint64_t missing = sweep_bytes - std::min(sweep_bytes, input.budget_bytes);
      const uint64_t affordable = std::max<uint64_t>(missing / kRingShare / plan.slot_bytes, kMinSlots);
      const uint64_t extra =
          std::min({static_cast<uint64_t>(input.prefetch_depth) + 2, room / plan.slot_bytes, affordable - kMinSlots});
      plan.n_slots += static_cast<int>(extra);
      room -= extra * plan.slot_bytes;
    }
    const bool keeps_prefixes = plan.resident_bytes > 0;
    uint64_t drafted = 0;
    for (int64_t t : input.drafted) drafted += streamed[t];
    if (keeps_prefixes && drafted <= room / 2) room = spread(streamed, input.drafted, room, &plan);
    std::vector<int64_t> others;
    for (int64_t t : input.sweep)
      if (!plan.resident[t]) others.push_back(t);
    room = spread(streamed, others, room, &plan);
    for (int64_t t : input.sweep) plan.prefix_kept[t] = keeps_prefixes && input.prefix_bytes[t] > 0;
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
    plan.prefix_kept.assign(input.stored_bytes.size(), false);
    plan.slot_bytes = largest(input.stored_bytes);
    plan.n_slots = static_cast<int>(std::min<uint64_t>(input.budget_bytes / plan.slot_bytes, plan.resident.size()));
    plan.prefetch = false;
    plan.adapts = false;
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
