// What searches and reads of a bank ask of their arguments: "[op] rule, got value".
#pragma once

#include <cstdint>
#include <span>

#include "lava/bank.h"

namespace vx {

// The number of queries, whose values are finite.
int64_t check_queries(const char* op, const LavaBank& bank, std::span<const float> queries);
void check_probes(const char* op, const BankOptions& options, int64_t n_probe);
void check_k(const char* op, int64_t k);
void check_size(const char* op, const char* name, size_t got, size_t wanted);

}  // namespace vx
