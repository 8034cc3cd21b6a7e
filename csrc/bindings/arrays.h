// numpy arrays at the native edge: exact dtype, C-contiguous, expected shape, never converted in silence.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "common/errors.h"

namespace vx {

namespace py = pybind11;

inline std::string shape_text(const py::array& a) { return py::str(a.attr("shape")); }

// Checks that `a` is a C-contiguous array of T with `ndim` dimensions and returns it typed.
template <class T>
py::array_t<T> checked(const py::array& a, int ndim, const char* op, const char* name) {
  if (!py::isinstance<py::array_t<T>>(a))
    throw ArgumentError(std::string("[") + op + "] " + name + " must be " + std::string(py::str(py::dtype::of<T>())) +
                        ", got " + std::string(py::str(a.dtype())));
  if (a.ndim() != ndim || !(a.flags() & py::array::c_style))
    throw ArgumentError(std::string("[") + op + "] " + name + " must be a C-contiguous array of " +
                        std::to_string(ndim) + " dimensions, got shape " + shape_text(a));
  return py::reinterpret_borrow<py::array_t<T>>(a);
}

}  // namespace vx
