#include "lava/store.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "lava/vectors.h"

namespace vx {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int64_t block_bytes(int64_t units) {
  const int64_t bytes = static_cast<int64_t>(sizeof(KeyBlock)) + units * kLavaLanes * 2;
  return (bytes + 63) / 64 * 64;
}

int64_t most_blocks(const BankOptions& o) { return o.capacity / kLavaLanes + o.n_lists + 1; }

}  // namespace

Store::Store(const BankOptions& options_, const LavaOps& ops_)
    : options(options_),
      ops(ops_),
      key_units(units_of(options_.contents, options_.dim)),
      value_units(units_of(options_.contents, options_.value_dim)),
      slots_(sizeof(Slot), options_.capacity),
      values_(units_of(options_.contents, options_.value_dim) * 2, options_.capacity),
      blocks_(block_bytes(units_of(options_.contents, options_.dim)), most_blocks(options_)),
      order_(sizeof(int32_t), options_.capacity),
      rows_((options_.dim * 4 + 63) / 64 * 64, options_.n_lists),
      directions_(options_.dim),
      means_(options_.dim),
      coarse_(options_.dim),
      lane_(static_cast<size_t>(units_of(options_.contents, options_.dim))),
      key_(static_cast<size_t>(options_.dim)),
      value_(static_cast<size_t>(options_.value_dim)) {}

Counters& Store::change_counters() {
  if (journal.is_open() && counters_saved_ != journal.generation()) {
    journal.save(&counters_, sizeof counters_);
    counters_saved_ = journal.generation();
  }
  return counters_;
}

void Store::key_units_of(int64_t id, uint16_t* out) const {
  const uint16_t* lane = block(slot(id).block).units() + slot(id).lane;
  for (int64_t u = 0; u < key_units; ++u) out[u] = lane[u * kLavaLanes];
}

void Store::decode_key(const uint16_t* units, float scale, float* out) const {
  decode(ops, options.contents, units, scale, options.dim, out);
}

void Store::decode_value(const uint16_t* units, float scale, float* out) const {
  decode(ops, options.contents, units, scale, options.value_dim, out);
}

void Store::key_of(int64_t id, float* out) const {
  std::vector<uint16_t> units(static_cast<size_t>(key_units));
  key_units_of(id, units.data());
  decode_key(units.data(), key_scale_of(id), out);
}

void Store::decode_block(const KeyBlock& block, float* out) const {
  const int64_t dim = options.dim;
  if (options.contents == Contents::fp16) return ops.decode_half(block.units(), dim * kLavaLanes, out);
  const bool is_int8 = options.contents == Contents::int8;
  for (int64_t j = 0; j < dim; ++j) {
    const uint16_t* units = block.units() + j / (is_int8 ? 2 : 8) * kLavaLanes;
    const auto shift = static_cast<int>(is_int8 ? 8 * (j % 2) : 2 * (j % 8));
    for (int64_t lane = 0; lane < kLavaLanes; ++lane) {
      const int bits = units[lane] >> shift;
      const int level = is_int8 ? static_cast<int8_t>(bits & 0xff) : 2 * (bits & 3) - 3;
      out[j * kLavaLanes + lane] = block.scales[lane] * static_cast<float>(level);
    }
  }
}

int32_t Store::take_slot() {
  Counters& c = change_counters();
  int32_t id = c.free_slot;
  if (id >= 0) {
    c.free_slot = slot(id).heap_at;
  } else {
    id = static_cast<int32_t>(c.n_slots);
    slots_.reach(id + 1);
    values_.reach(id + 1);
    order_.reach(id + 1);
    ++c.n_slots;
    *slots_.row_of<Slot>(id) = Slot{0, 0.0, 0.0f, 0.0f, -1, -1, -1, -1};
  }
  ++c.n_live;
  return id;
}

void Store::release_slot(int32_t id) {
  Counters& c = change_counters();
  --c.n_live;
  leave_order(id);
  change_slot(id).heap_at = c.free_slot;
  c.free_slot = id;
}

Slot& Store::change_slot(int32_t id) {
  Slot& slot = *slots_.row_of<Slot>(id);
  journal.save(&slot, sizeof slot);
  return slot;
}

void Store::set_value(int32_t id, const uint16_t* units, float scale) {
  auto* row = values_.row_of<uint16_t>(id);
  const auto bytes = static_cast<size_t>(value_units) * 2;
  journal.save(row, bytes);
  std::memcpy(row, units, bytes);
  change_slot(id).value_scale = scale;
}

int32_t Store::take_block() {
  Counters& c = change_counters();
  int32_t i = c.free_block;
  if (i >= 0) {
    c.free_block = block(i).next;
    return i;
  }
  i = static_cast<int32_t>(c.n_blocks++);
  blocks_.reach(i + 1);
  std::memset(blocks_.row(i), 0, static_cast<size_t>(block_bytes(key_units)));
  return i;
}

void Store::release_block(int32_t i) {
  Counters& c = change_counters();
  KeyBlock& block = change_block(i);
  journal.save(&block.next, sizeof block.next);
  block.next = c.free_block;
  c.free_block = i;
}

int32_t Store::add_list(const float* centroid) {
  Counters& c = change_counters();
  int32_t i = 0;
  while (i < c.n_lists && list(i).head.is_alive != 0) ++i;
  if (i == c.n_lists) ++c.n_lists;
  if (static_cast<size_t>(i) == lists_.size()) {
    List& fresh = lists_.emplace_back();
    const auto d = static_cast<size_t>(options.dim), dv = static_cast<size_t>(options.value_dim);
    const size_t doubles = d + dv + (2 * d + 2 * dv + 1) / 2;
    fresh.data = std::make_unique<double[]>(doubles);
    fresh.n_bytes = doubles * sizeof(double);
    fresh.key_sum = fresh.data.get();
    fresh.value_sum = fresh.key_sum + d;
    fresh.centroid = reinterpret_cast<float*>(fresh.value_sum + dv);
    fresh.key_anchor = fresh.centroid + d;
    fresh.value_anchor = fresh.key_anchor + d;
    fresh.value_mean = fresh.value_anchor + dv;
    rows_.reach(i + 1);
    directions_.reach(i + 1);
    means_.reach(i + 1);
    coarse_.reach(i + 1);
    bias_.resize(static_cast<size_t>((i / kLavaLanes + 1) * kLavaLanes), -kInfinity);
    needs_.resize(static_cast<size_t>(i + 1), {0.0f, kInfinity, -1, -1});
  }
  List& list = change_list(i);
  std::memset(list.data.get(), 0, list.n_bytes);
  list.head = ListHead{0, -1, -1, 1, 0, 0.0, 0.0, 0.0, std::numeric_limits<double>::infinity(), -1, 0};
  std::copy_n(centroid, options.dim, list.centroid);
  ++c.n_alive;
  return i;
}

void Store::drop_list(int32_t i) {
  change_list(i).head.is_alive = 0;
  --change_counters().n_alive;
}

List& Store::change_list(int32_t i) {
  List& list = lists_[static_cast<size_t>(i)];
  if (journal.is_open() && list.saved != journal.generation()) {
    journal.save(&list.head, sizeof list.head);
    journal.save(list.data.get(), list.n_bytes);
    list.saved = journal.generation();
    touched_.push_back(i);
  }
  if (!list.is_stale) {
    list.is_stale = true;
    stale_.push_back(i);
  }
  return list;
}

void Store::write_lane(int32_t at, int32_t lane, int32_t id, const uint16_t* units, float scale) {
  KeyBlock& block = change_block(at);
  uint16_t* to = block.units() + lane;
  journal.save_rows(to, static_cast<size_t>(key_units), sizeof *to, kLavaLanes * sizeof *to);
  journal.save(&block.ids[lane], sizeof block.ids[lane]);
  journal.save(&block.scales[lane], sizeof block.scales[lane]);
  for (int64_t u = 0; u < key_units; ++u) to[u * kLavaLanes] = units[u];
  block.ids[lane] = id;
  block.scales[lane] = scale;
  Slot& slot = change_slot(id);
  slot.block = at;
  slot.lane = lane;
}

void Store::put(int32_t to, int32_t id, const uint16_t* units, float scale, const float* key, const float* value) {
  List& list = change_list(to);
  const int64_t d = options.dim, dv = options.value_dim;
  if (list.head.count % kLavaLanes == 0) {
    const int32_t i = take_block();
    KeyBlock& block = change_block(i);
    journal.save(&block.next, 2 * sizeof block.next);
    block.next = -1;
    block.previous = list.head.last;
    if (list.head.last >= 0) {
      KeyBlock& before = change_block(list.head.last);
      journal.save(&before.next, sizeof before.next);
      before.next = i;
    } else {
      list.head.first = i;
    }
    list.head.last = i;
  }
  if (list.head.count == 0) {
    std::copy_n(key, d, list.key_anchor);
    std::copy_n(value, dv, list.value_anchor);
    list.head.key_radius = list.head.value_radius = 0.0;
  }
  write_lane(list.head.last, static_cast<int32_t>(list.head.count % kLavaLanes), id, units, scale);
  change_slot(id).list = to;
  ++list.head.count;
  ++list.head.n_stirred;
  for (int64_t j = 0; j < d; ++j) list.key_sum[j] += static_cast<double>(key[j]);
  for (int64_t j = 0; j < dv; ++j) list.value_sum[j] += static_cast<double>(value[j]);
  list.head.key_radius = std::max(list.head.key_radius, distance(key, list.key_anchor, d));
  list.head.value_radius = std::max(list.head.value_radius, distance(value, list.value_anchor, dv));
}

void Store::take_out(int32_t id, const float* key, const float* value) {
  const Slot gone = slot(id);
  List& list = change_list(gone.list);
  ListHead& head = list.head;
  --head.count;
  ++head.n_stirred;
  const auto last_lane = static_cast<int32_t>(head.count % kLavaLanes);
  KeyBlock& last = change_block(head.last);
  if (const int32_t other = last.ids[last_lane]; other != id) {
    key_units_of(other, lane_.data());
    write_lane(gone.block, gone.lane, other, lane_.data(), last.scales[last_lane]);
  }
  if (last_lane == 0) {
    const int32_t empty = head.last;
    head.last = last.previous;
    if (head.last < 0) {
      head.first = -1;
    } else {
      KeyBlock& before = change_block(head.last);
      journal.save(&before.next, sizeof before.next);
      before.next = -1;
    }
    release_block(empty);
  }
  change_slot(id).list = -1;
  // The sums of an empty list are exact again.
  for (int64_t j = 0; j < options.dim; ++j)
    list.key_sum[j] = head.count == 0 ? 0.0 : list.key_sum[j] - static_cast<double>(key[j]);
  for (int64_t j = 0; j < options.value_dim; ++j)
    list.value_sum[j] = head.count == 0 ? 0.0 : list.value_sum[j] - static_cast<double>(value[j]);
}

void Store::move(int32_t id, int32_t to) {
  std::vector<uint16_t> units(static_cast<size_t>(key_units));
  key_units_of(id, units.data());
  const float scale = key_scale_of(id);
  decode_key(units.data(), scale, key_.data());
  value_of(id, value_.data());
  take_out(id, key_.data(), value_.data());
  put(to, id, units.data(), scale, key_.data(), value_.data());
  ++change_counters().n_moves;
}

// n lanes go to another block; those of the source stay as they are.
void Store::copy_lanes(int32_t from, int32_t from_lane, int32_t to, int32_t to_lane, int32_t n) {
  const KeyBlock& source = block(from);
  KeyBlock& target = change_block(to);
  const auto lanes = static_cast<size_t>(n);
  uint16_t* units = target.units() + to_lane;
  journal.save_rows(units, static_cast<size_t>(key_units), lanes * sizeof *units, kLavaLanes * sizeof *units);
  journal.save(&target.ids[to_lane], lanes * sizeof(int32_t));
  journal.save(&target.scales[to_lane], lanes * sizeof(float));
  for (int64_t u = 0; u < key_units; ++u)
    std::copy_n(source.units() + u * kLavaLanes + from_lane, n, units + u * kLavaLanes);
  std::copy_n(source.ids + from_lane, n, target.ids + to_lane);
  std::copy_n(source.scales + from_lane, n, target.scales + to_lane);
  for (int32_t lane = to_lane; lane < to_lane + n; ++lane) {
    Slot& slot = change_slot(target.ids[lane]);
    slot.block = to;
    slot.lane = lane;
  }
}

void Store::link(int32_t before, int32_t after) {
  if (before >= 0) {
    KeyBlock& block = change_block(before);
    journal.save(&block.next, sizeof block.next);
    block.next = after;
  }
  if (after >= 0) {
    KeyBlock& block = change_block(after);
    journal.save(&block.previous, sizeof block.previous);
    block.previous = before;
  }
}

void Store::append(int32_t from, int32_t to) {
  List &source = change_list(from), &target = change_list(to);
  ListHead &gone = source.head, &head = target.head;
  if (gone.count == 0) return;
  for (int32_t b = gone.first; b >= 0; b = block(b).next) {
    const int64_t n = b == gone.last ? (gone.count - 1) % kLavaLanes + 1 : kLavaLanes;
    for (int64_t lane = 0; lane < n; ++lane) change_slot(block(b).ids[lane]).list = to;
  }
  // The target's last block, where it is not full, goes behind the source's: its last lanes fill what is free there.
  auto n_left = static_cast<int32_t>(head.count % kLavaLanes);
  const int32_t partial = n_left > 0 ? head.last : -1;
  const int32_t joint = n_left > 0 ? block(head.last).previous : head.last;
  link(joint, gone.first);
  if (joint < 0) head.first = gone.first;
  head.last = gone.last;
  if (partial >= 0) {
    const auto used = static_cast<int32_t>((gone.count - 1) % kLavaLanes + 1);
    const int32_t n = std::min(n_left, static_cast<int32_t>(kLavaLanes) - used);
    n_left -= n;
    if (n > 0) copy_lanes(partial, n_left, head.last, used, n);
    if (n_left > 0) {
      link(head.last, partial);
      link(partial, -1);
      head.last = partial;
    } else {
      release_block(partial);
    }
  }
  const int64_t d = options.dim, dv = options.value_dim;
  if (head.count == 0) {
    std::copy_n(source.key_anchor, d, target.key_anchor);
    std::copy_n(source.value_anchor, dv, target.value_anchor);
    head.key_radius = head.value_radius = 0.0;
  }
  head.key_radius = std::max(head.key_radius, gone.key_radius + distance(source.key_anchor, target.key_anchor, d));
  head.value_radius =
      std::max(head.value_radius, gone.value_radius + distance(source.value_anchor, target.value_anchor, dv));
  for (int64_t j = 0; j < d; ++j) target.key_sum[j] += source.key_sum[j];
  for (int64_t j = 0; j < dv; ++j) target.value_sum[j] += source.value_sum[j];
  std::fill_n(source.key_sum, d + dv, 0.0);  // and value_sum, which follows
  change_counters().n_moves += gone.count;
  head.count += gone.count;
  head.n_stirred += gone.count;
  gone.count = 0;
  gone.first = gone.last = -1;
}

void Store::refresh(int32_t i) {
  List& list = lists_[static_cast<size_t>(i)];
  const auto at = static_cast<size_t>(i);
  list.is_stale = false;
  if (list.head.is_alive == 0) {
    bias_[at] = -kInfinity;
    needs_[at] = {0.0f, kInfinity, -1, -1};
    return;
  }
  bias_[at] = 0.0f;
  needs_[at] = {static_cast<float>(list.head.split_gain), static_cast<float>(list.head.merge_cost), list.head.count,
                list.head.first};
  const float length = std::sqrt(dot(list.centroid, list.centroid, options.dim));
  const float to_direction = length > 0.0f ? 1.0f / length : 0.0f;
  auto* direction = rows_.row_of<float>(i);
  for (int64_t j = 0; j < options.dim; ++j) direction[j] = list.centroid[j] * to_direction;
  directions_.set(i, direction);
  coarse_.set(i, direction);
  const double share = list.head.count > 0 ? 1.0 / list.head.count : 0.0;
  for (int64_t j = 0; j < options.dim; ++j) key_[static_cast<size_t>(j)] = static_cast<float>(list.key_sum[j] * share);
  means_.set(i, key_.data());
  for (int64_t j = 0; j < options.value_dim; ++j) list.value_mean[j] = static_cast<float>(list.value_sum[j] * share);
}

void Store::refresh() {
  for (const int32_t i : stale_) refresh(i);
  stale_.clear();
}

void Store::commit(int64_t mark) {
  journal.commit(mark);
  if (!journal.is_open()) touched_.clear();
}

void Store::rollback(int64_t mark) {
  journal.rollback(mark);
  for (const int32_t i : touched_) refresh(i);
  if (!journal.is_open()) touched_.clear();
}

int64_t Store::n_bytes() const {
  int64_t total = slots_.n_bytes() + values_.n_bytes() + blocks_.n_bytes() + order_.n_bytes() + rows_.n_bytes() +
                  directions_.n_bytes() + means_.n_bytes() + coarse_.n_bytes() +
                  static_cast<int64_t>(bias_.size() * 4 + journal.n_bytes() + sizeof *this);
  for (const List& list : lists_) total += static_cast<int64_t>(list.n_bytes + sizeof list);
  return total;
}

}  // namespace vx
