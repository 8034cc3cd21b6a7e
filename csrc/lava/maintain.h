// Keeping the lists of a bank short and their slots where they belong, a bounded step at a time.
#pragma once

#include "lava/store.h"

namespace vx {

// A list longer than this is split.
int64_t longest_list(const BankOptions& options);

// What n_rows new rows pay for, the most pressing first: splits, merges that must come before them, later looks at
// lists, merges, and one list after the other its slots that lie nearer to another.
void maintain(Store& store, int64_t n_rows);

}  // namespace vx
