// What the recurrent ops ask of their arguments: one message for every broken rule, "[op] rule, got value".
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "ops/recurrent.h"

namespace vx {

class Arguments {
 public:
  explicit Arguments(const char* op) : op_(op) {}

  const char* op() const { return op_; }

  [[noreturn]] void fail(const std::string& rule, const std::string& value) const;
  [[noreturn]] void fail(const std::string& rule, const Strided& value) const;                      // "got shape (...)"
  void shape(const char* name, const Strided& value, std::initializer_list<int64_t> wanted) const;  // -1: any

  // The sequences of a call whose states are [slots, channels, n].
  std::vector<Sequence> sequences(const Sequences& given, int64_t batch, int64_t length, int64_t channels, int64_t n,
                                  const Strided& initial, const Strided& last) const;

  // Throws NotFinite if `value` holds one that is not, naming it and the place.
  void finite(const char* name, const Strided& value) const;

 private:
  const char* op_;
};

// Sizes of a scan; `rows` are those of delta, a channel or a head each.
struct ScanSizes {
  int64_t batch, channels, length, n_state, rows, groups;
  bool has_heads;
};

// Checks what a scan takes besides its states.
ScanSizes check_scan(const Arguments& args, const ScanInputs& in);

}  // namespace vx
