// numpy arrays at the native edge: exact dtype, C-contiguous, expected shape, never converted in silence.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <span>
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

// `array` as a checked array of T with that shape; -1 stands for any size.
template <class T>
py::array_t<T> with_shape(const py::array& array, std::initializer_list<int64_t> shape, const char* op,
                          const char* name) {
  auto typed = checked<T>(array, static_cast<int>(shape.size()), op, name);
  bool fits = reinterpret_cast<uintptr_t>(typed.data()) % alignof(T) == 0;
  std::string text;
  for (size_t i = 0; i < shape.size(); ++i) {
    const int64_t wanted = shape.begin()[i];
    fits = fits && (wanted < 0 || typed.shape(i) == wanted);
    if (i > 0) text += ", ";
    text += wanted < 0 ? "any" : std::to_string(wanted);
  }
  if (!fits)
    throw ArgumentError(std::string("[") + op + "] " + name + " must be aligned and have shape (" + text + "), got " +
                        shape_text(array));
  return typed;
}

template <class T>
std::span<const T> in(const py::array_t<T>& array) {
  return {array.data(), static_cast<size_t>(array.size())};
}

inline std::span<float> fresh(py::array_t<float>& array) {
  return {array.mutable_data(), static_cast<size_t>(array.size())};
}

inline std::span<float> in_place(py::array_t<float>& array, const char* op, const char* name) {
  if (!array.writeable())
    throw ArgumentError(std::string("[") + op + "] " + name + " must be writeable, got a read-only array");
  return fresh(array);
}

}  // namespace vx
