#include "ops/lava_checks.h"

#include <string>

#include "common/errors.h"

namespace vx {
namespace {

constexpr int64_t kMostK = int64_t{1} << 24;

[[noreturn]] void fail(const char* op, const std::string& rule, const std::string& value) {
  throw ArgumentError(std::string("[") + op + "] " + rule + ", got " + value);
}

}  // namespace

int64_t check_queries(const char* op, const LavaBank& bank, std::span<const float> queries) {
  const auto dim = static_cast<size_t>(bank.keys().dim());
  if (queries.size() % dim != 0)
    fail(op, "q must have rows of " + std::to_string(dim), std::to_string(queries.size()) + " elements");
  check_magnitudes(op, "q", queries, bank.keys().dim());
  return static_cast<int64_t>(queries.size() / dim);
}

void check_probes(const char* op, const BankOptions& options, int64_t n_probe) {
  if (n_probe < 1 || n_probe > options.n_lists)
    fail(op, "nprobe must be from 1 to nlist " + std::to_string(options.n_lists), std::to_string(n_probe));
}

void check_k(const char* op, int64_t k) {
  if (k < 1 || k > kMostK) fail(op, "k must be from 1 to " + std::to_string(kMostK), std::to_string(k));
}

void check_size(const char* op, const char* name, size_t got, size_t wanted) {
  if (got != wanted)
    fail(op, std::string(name) + " must have " + std::to_string(wanted) + " elements", std::to_string(got));
}

}  // namespace vx
