// What goes wrong in native code. bindings/ maps each type to the Python exception of the same meaning.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace vx {

// The caller's fault: message "[op] rule, got value" (Python: ValueError).
struct ArgumentError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// A tile whose bytes are not what was packed (Python: CorruptTileError with the same fields).
struct CorruptTile : std::runtime_error {
  CorruptTile(const std::string& file_, const std::string& tensor_, int64_t tile_, uint64_t offset_,
              const std::string& what)
      : std::runtime_error(what), file(file_), tensor(tensor_), tile(tile_), offset(offset_) {}
  std::string file, tensor;
  int64_t tile;
  uint64_t offset;
};

// A budget below what the work needs (Python: BudgetError).
struct BudgetTooSmall : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The machine failed: a read error, memory that cannot be mapped (Python: MachineError).
struct MachineFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Logits that are not finite where a token must be chosen from them (Python: VortexError).
struct NotFinite : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace vx
