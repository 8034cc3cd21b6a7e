#pragma once

#include <pybind11/pybind11.h>

namespace vx {

void bind_bad_verify(pybind11::module_& m);
void bind_codec(pybind11::module_& m);
void bind_decoder_layer(pybind11::module_& m);
void bind_gradients(pybind11::module_& m);
void bind_lava(pybind11::module_& m);
void bind_ngram(pybind11::module_& m);
void bind_pager(pybind11::module_& m);
void bind_recurrent(pybind11::module_& m);
void bind_small_ops(pybind11::module_& m);
void bind_verify(pybind11::module_& m);

}  // namespace vx
