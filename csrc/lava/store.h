// The slots of a bank and the lists they are in, with everything that a list knows of its slots. Every write goes
// through the journal, so an open transaction can be undone; what is derived from a list is refreshed after it.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "lava/chunks.h"
#include "lava/coarse.h"
#include "lava/contents.h"
#include "lava/journal.h"
#include "lava/lane_matrix.h"

namespace vx {

struct BankState;

struct BankOptions {
  int64_t dim, value_dim;     // of what is stored
  int64_t capacity, n_lists;  // n_lists: the most there may be
  Contents contents;
  double ema;        // the least rate at which a centroid follows the keys that arrive
  double half_life;  // positions that weigh as much as an importance of 1
};

// 64 keys of a list; their units follow, [n_units, 64].
struct alignas(64) KeyBlock {
  float scales[kLavaLanes];
  int32_t ids[kLavaLanes];
  int32_t next, previous;  // in the list, -1 at its ends

  uint16_t* units() { return reinterpret_cast<uint16_t*>(this + 1); }
  const uint16_t* units() const { return reinterpret_cast<const uint16_t*>(this + 1); }
};

struct Slot {
  int64_t position;
  double priority;
  float importance, value_scale;
  int32_t list;         // -1: free
  int32_t block, lane;  // of its key
  int32_t heap_at;      // its place in the order of eviction; of a free slot the next free one, -1 for none
};

struct ListHead {
  int32_t count, first, last;  // slots; blocks, all full but the last
  int32_t is_alive;
  int32_t no_split_below;           // a list of equal keys is tried again once it has grown
  double key_radius, value_radius;  // no key lies further from key_anchor, no value from value_anchor
  // As they were found when its slots were last looked at: by how much the sum of the scores of all keys with the
  // directions of their lists would grow if this list became two, and shrink if it became one with `merge_with`.
  double split_gain, merge_cost;
  int32_t merge_with;  // -1: unknown
  int32_t n_stirred;   // slots that came or went since split_gain was found
};

struct List {
  ListHead head{};
  uint64_t saved = 0;  // the journal's generation
  bool is_stale = false;
  std::unique_ptr<double[]> data;
  size_t n_bytes = 0;  // of data, which holds:
  double *key_sum, *value_sum;
  float *centroid, *key_anchor, *value_anchor, *value_mean;
};

// What searches and maintenance ask of many lists, side by side.
struct ListNeeds {
  float split_gain, merge_cost;  // infinity, and 0 for the gain, of what is no list
  int32_t count;                 // -1 of what is no list
  int32_t first;                 // block
};

// A later step of maintenance: the first `left` slots of `list` are looked at again, for those that belong to lists a
// or b; or (a = kRadii) its radii; or (a = kRefine) it is refined before others are.
struct Job {
  static constexpr int32_t kRadii = -1, kRefine = -2;
  int32_t list, a, b, left;
};

struct Counters {
  static constexpr int32_t kMaxJobs = 256;
  int64_t n_live = 0, n_slots = 0, n_blocks = 0;  // slots in use; slots and blocks that ever were
  int32_t free_slot = -1, free_block = -1;        // the first of those that are free
  int32_t n_lists = 0, n_alive = 0;               // lists that ever were; that are
  int32_t first_job = 0, n_jobs = 0;              // of the ring
  int64_t n_splits = 0, n_merges = 0, n_moves = 0;
  int64_t next_refined = 0;  // list
  int64_t credit = 0;        // work that maintenance may do, in elements of keys that it looks at; below 0: debt
  Job jobs[kMaxJobs]{};
};

class Store {
 public:
  Store(const BankOptions& options, const LavaOps& ops);

  const BankOptions options;
  const LavaOps& ops;
  const int64_t key_units, value_units;
  Journal journal;

  const Counters& counters() const { return counters_; }
  Counters& change_counters();
  const Slot& slot(int64_t id) const { return *slots_.row_of<Slot>(id); }
  const KeyBlock& block(int32_t i) const { return *blocks_.row_of<KeyBlock>(i); }
  const List& list(int32_t i) const { return lists_[static_cast<size_t>(i)]; }
  const uint16_t* value_row(int64_t id) const { return values_.row_of<uint16_t>(id); }
  bool is_live(int64_t id) const { return id >= 0 && id < counters_.n_slots && slot(id).list >= 0; }

  // That of a list's centroid, of length 1: keys belong to the list where they score highest with it.
  const float* direction(int32_t i) const { return rows_.row_of<float>(i); }
  // For the kernels: directions and mean keys of lists, and 0, or -infinity of what is no list.
  const LaneMatrix& directions() const { return directions_; }
  const LaneMatrix& means() const { return means_; }
  const CoarseCentroids& coarse() const { return coarse_; }
  const float* bias() const { return bias_.data(); }
  const std::vector<ListNeeds>& needs() const { return needs_; }  // of lists 0..n_lists - 1 and perhaps more
  int64_t n_lane_blocks() const { return (counters_.n_lists + kLavaLanes - 1) / kLavaLanes; }

  void key_of(int64_t id, float* out) const;
  void key_units_of(int64_t id, uint16_t* out) const;
  float key_scale_of(int64_t id) const { return block(slot(id).block).scales[slot(id).lane]; }
  void value_of(int64_t id, float* out) const { decode_value(value_row(id), slot(id).value_scale, out); }
  void decode_key(const uint16_t* units, float scale, float* out) const;
  void decode_value(const uint16_t* units, float scale, float* out) const;
  // All lanes of a block, those of no slot included: [dim, 64].
  void decode_block(const KeyBlock& block, float* out) const;

  // A free slot, the one freed last; it enters the order of eviction once its priority is set.
  int32_t take_slot();
  void release_slot(int32_t id);  // of no list any more; it leaves the order
  Slot& change_slot(int32_t id);
  void set_value(int32_t id, const uint16_t* units, float scale);

  int32_t add_list(const float* centroid);
  void drop_list(int32_t i);  // empty
  List& change_list(int32_t i);
  // At the end of the list; key and value are what the contents decode to.
  void put(int32_t list, int32_t id, const uint16_t* units, float scale, const float* key, const float* value);
  // Its place goes to the list's last slot.
  void take_out(int32_t id, const float* key, const float* value);
  void move(int32_t id, int32_t to);
  // All slots of a list go to the end of another, most of them block by block; it is empty then.
  void append(int32_t from, int32_t to);
  void refresh();  // what is derived from the lists that changed

  // Eviction: the slot with the lowest (priority, position, id).
  void enter_order(int32_t id);
  void reorder(int32_t id);
  int32_t lowest() const { return order_at(0); }

  int64_t begin() { return journal.begin(); }
  void commit(int64_t mark);
  void rollback(int64_t mark);

  int64_t n_bytes() const;

  // Of a store that is new; members: the slots of each list in their order.
  void restore(const BankState& state, const std::vector<std::vector<int32_t>>& members);

 private:
  int32_t take_block();
  void release_block(int32_t i);
  KeyBlock& change_block(int32_t i) { return *blocks_.row_of<KeyBlock>(i); }
  void copy_lanes(int32_t from, int32_t from_lane, int32_t to, int32_t to_lane, int32_t n);
  void link(int32_t before, int32_t after);
  void write_lane(int32_t block, int32_t lane, int32_t id, const uint16_t* units, float scale);
  void refresh(int32_t i);
  int32_t& order_at(int64_t at) const { return *order_.row_of<int32_t>(at); }
  void leave_order(int32_t id);
  bool is_before(int32_t a, int32_t b) const;
  void place(int64_t at, int32_t id);
  void sift_up(int64_t at, int32_t id);
  void sift_down(int64_t at, int32_t id);

  Counters counters_;
  uint64_t counters_saved_ = 0;
  Chunks slots_, values_, blocks_, order_, rows_;
  std::deque<List> lists_;
  std::vector<int32_t> stale_, touched_;  // lists to refresh now; lists to refresh after a rollback
  LaneMatrix directions_, means_;
  CoarseCentroids coarse_;
  std::vector<float> bias_;
  std::vector<ListNeeds> needs_;
  std::vector<uint16_t> lane_;
  std::vector<float> key_, value_;  // scratch of move
};

}  // namespace vx
