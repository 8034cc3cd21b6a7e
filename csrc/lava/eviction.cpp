// The order of eviction: a binary heap of slots, the lowest (priority, position, id) at its root.
#include "lava/store.h"

namespace vx {

bool Store::is_before(int32_t a, int32_t b) const {
  const Slot &x = slot(a), &y = slot(b);
  if (x.priority != y.priority) return x.priority < y.priority;
  if (x.position != y.position) return x.position < y.position;
  return a < b;
}

void Store::place(int64_t at, int32_t id) {
  journal.save(&order_at(at), sizeof(int32_t));
  order_at(at) = id;
  int32_t& heap_at = slots_.row_of<Slot>(id)->heap_at;
  journal.save(&heap_at, sizeof heap_at);
  heap_at = static_cast<int32_t>(at);
}

void Store::sift_up(int64_t at, int32_t id) {
  for (; at > 0; at = (at - 1) / 2) {
    const int32_t parent = order_at((at - 1) / 2);
    if (!is_before(id, parent)) break;
    place(at, parent);
  }
  place(at, id);
}

void Store::sift_down(int64_t at, int32_t id) {
  const int64_t n = counters_.n_live;
  for (int64_t child; (child = 2 * at + 1) < n; at = child) {
    if (child + 1 < n && is_before(order_at(child + 1), order_at(child))) ++child;
    if (!is_before(order_at(child), id)) break;
    place(at, order_at(child));
  }
  place(at, id);
}

// The slot was counted already.
void Store::enter_order(int32_t id) { sift_up(counters_.n_live - 1, id); }

// The slot is counted no more.
void Store::leave_order(int32_t id) {
  const int64_t at = slot(id).heap_at, last = counters_.n_live;
  const int32_t other = order_at(last);
  if (other == id) return;
  sift_up(at, other);
  if (slot(other).heap_at == at) sift_down(at, other);
}

void Store::reorder(int32_t id) {
  sift_up(slot(id).heap_at, id);
  sift_down(slot(id).heap_at, id);
}

}  // namespace vx
