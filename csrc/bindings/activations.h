#pragma once

#include <string>

#include "common/errors.h"
#include "ops/paged_linear.h"

namespace vx {

inline Activations activations_by_name(const char* op, const std::string& name) {
  if (name == "float") return Activations::f32;
  if (name == "int8") return Activations::int8;
  throw ArgumentError(std::string("[") + op + "] activations must be float or int8, got " + name);
}

}  // namespace vx
