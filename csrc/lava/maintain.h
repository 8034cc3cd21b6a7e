// Keeping the lists of a bank short and their slots where they belong, a bounded step at a time.
#pragma once

#include "lava/store.h"

namespace vx {

// A list longer than this is split.
int64_t longest_list(const BankOptions& options);

// Some steps, the most pressing first: splits, merges that must come before them, later looks at lists, merges.
void maintain(Store& store);

}  // namespace vx
