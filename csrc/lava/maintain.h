// Keeping the lists of a bank few, short and apart from each other, a bounded step at a time.
#pragma once

#include "lava/store.h"

namespace vx {

// A list longer than this is split whatever that is worth.
int64_t longest_list(const BankOptions& options);
// More work than one step ever takes from the credit, unless a list of equal keys outgrew longest_list.
int64_t longest_step(const BankOptions& options);

// What n_rows new rows pay for, the most pressing first: splits of lists that are too long, later steps of what was
// begun, splits while there are few lists for so many slots, a merge where a split elsewhere gains more than it costs,
// and one list after the other its slots that score higher in another.
void maintain(Store& store, int64_t n_rows);

}  // namespace vx
