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

inline Planes planes_by_name(const char* op, const std::string& name) {
  if (name == "all") return Planes::all;
  if (name == "prefix") return Planes::prefix;
  if (name == "resident") return Planes::resident;
  throw ArgumentError(std::string("[") + op + "] planes must be all, prefix or resident, got " + name);
}

}  // namespace vx
