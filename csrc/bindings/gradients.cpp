// Gradients of RMSNorm and SwiGLU on numpy arrays.
#include "ops/gradients.h"

#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace vx {
namespace {

py::tuple py_rms_norm_gradient(Pool& pool, const py::array& grad_y_, const py::array& x_, const py::array& weight_,
                               float eps) {
  constexpr const char* kOp = "rms_norm_gradient";
  const auto x = with_shape<float>(x_, {-1, -1}, kOp, "x");
  const int64_t rows = x.shape(0), dim = x.shape(1);
  const auto grad_y = with_shape<float>(grad_y_, {rows, dim}, kOp, "grad_y");
  const auto weight = with_shape<float>(weight_, {dim}, kOp, "weight");
  auto of_x = py::array_t<float>({rows, dim}), of_weight = py::array_t<float>(dim);
  const auto x_to = fresh(of_x), weight_to = fresh(of_weight);
  {
    py::gil_scoped_release release;
    rms_norm_gradient(pool, in(grad_y), in(x), in(weight), eps, x_to, weight_to, rows, dim);
  }
  return py::make_tuple(of_x, of_weight);
}

py::tuple py_swiglu_gradient(Pool& pool, const py::array& grad_y_, const py::array& gate_, const py::array& up_) {
  constexpr const char* kOp = "swiglu_gradient";
  const auto gate = with_shape<float>(gate_, {-1, -1}, kOp, "gate");
  const int64_t rows = gate.shape(0), n = gate.shape(1);
  const auto grad_y = with_shape<float>(grad_y_, {rows, n}, kOp, "grad_y");
  const auto up = with_shape<float>(up_, {rows, n}, kOp, "up");
  auto of_gate = py::array_t<float>({rows, n}), of_up = py::array_t<float>({rows, n});
  const auto gate_to = fresh(of_gate), up_to = fresh(of_up);
  {
    py::gil_scoped_release release;
    swiglu_gradient(pool, in(grad_y), in(gate), in(up), gate_to, up_to);
  }
  return py::make_tuple(of_gate, of_up);
}

}  // namespace

void bind_gradients(py::module_& m) {
  using py::arg;
  m.def("rms_norm_gradient", &py_rms_norm_gradient, arg("pool"), arg("grad_y"), arg("x"), arg("weight"), arg("eps"));
  m.def("swiglu_gradient", &py_swiglu_gradient, arg("pool"), arg("grad_y"), arg("gate"), arg("up"));
}

}  // namespace vx
