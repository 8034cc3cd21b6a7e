// The selective scan and the causal convolution on numpy arrays of any strides.
#include "ops/recurrent.h"

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "ops/gradients.h"

namespace vx {
namespace {

py::array as_array(const py::object& value, const char* op, const char* name) {
  if (!py::isinstance<py::array>(value))
    throw ArgumentError(std::string("[") + op + "] " + name + " must be a numpy array, got " +
                        std::string(py::str(py::type::of(value).attr("__name__"))));
  return py::reinterpret_borrow<py::array>(value);
}

Strided strided(const py::object& value, const char* op, const char* name, bool writeable = false) {
  if (value.is_none()) return {};
  const py::array array = as_array(value, op, name);
  const py::dtype dtype = array.dtype();
  if (dtype.num() != py::dtype::num_of<float>() || dtype.byteorder() == '>')
    throw ArgumentError(std::string("[") + op + "] " + name + " must be float32, got " + std::string(py::str(dtype)));
  if (writeable && !array.writeable())
    throw ArgumentError(std::string("[") + op + "] " + name + " must be writeable, got a read-only array");
  Strided result;
  bool aligned = reinterpret_cast<uintptr_t>(array.data()) % alignof(float) == 0;
  result.n_dims = static_cast<int>(array.ndim());
  if (array.ndim() < 1 || array.ndim() > 4)
    throw ArgumentError(std::string("[") + op + "] " + name + " must have 1 to 4 dimensions, got shape " +
                        shape_text(array));
  for (py::ssize_t i = 0; i < array.ndim(); ++i) {
    const auto at = static_cast<size_t>(i);
    result.shape[at] = array.shape(i);
    result.stride[at] = array.strides(i) / static_cast<py::ssize_t>(sizeof(float));
    aligned = aligned && array.strides(i) % static_cast<py::ssize_t>(sizeof(float)) == 0;
  }
  if (!aligned) throw ArgumentError(std::string("[") + op + "] " + name + " must be aligned, got a misaligned array");
  // Writing is for the states alone, which were checked above.
  result.data = const_cast<float*>(static_cast<const float*>(array.data()));
  return result;
}

// A view: `value` outlives the call.
std::optional<std::span<const int64_t>> integers(const py::object& value, const char* op, const char* name) {
  if (value.is_none()) return std::nullopt;
  return in(with_shape<int64_t>(as_array(value, op, name), {-1}, op, name));
}

Sequences sequences(const py::object& cu_seqlens, const py::object& state_indices, const char* op) {
  return {integers(cu_seqlens, op, "cu_seqlens"), integers(state_indices, op, "state_indices")};
}

// A new array of the shape of `like` and its memory order, [batch, time, channel] where channels lie side by side.
py::array new_like(const Strided& like) {
  const auto [batch, channels, length, rest] = like.shape;
  if (length <= 1 || like.stride[1] >= like.stride[2]) return py::array_t<float>({batch, channels, length});
  return py::array_t<float>({batch, length, channels}).attr("transpose")(0, 2, 1);
}

py::array py_ssm_scan(Pool& pool, const py::object& u, const py::object& delta, const py::object& A,
                      const py::object& B, const py::object& C, const py::object& D, const py::object& z,
                      const py::object& delta_bias, bool delta_softplus, const py::object& initial_state,
                      const py::object& last_state, const py::object& cu_seqlens, const py::object& state_indices) {
  constexpr const char* kOp = "ssm_scan";
  for (const auto& [name, value] : {std::pair{"u", &u}, {"delta", &delta}, {"A", &A}, {"B", &B}, {"C", &C}})
    if (value->is_none()) throw ArgumentError(std::string("[ssm_scan] ") + name + " must be a numpy array, got None");
  const ScanInputs inputs{strided(u, kOp, "u"),
                          strided(delta, kOp, "delta"),
                          strided(A, kOp, "A"),
                          strided(B, kOp, "B"),
                          strided(C, kOp, "C"),
                          strided(D, kOp, "D"),
                          strided(z, kOp, "z"),
                          strided(delta_bias, kOp, "delta_bias"),
                          delta_softplus,
                          strided(initial_state, kOp, "initial_state"),
                          strided(last_state, kOp, "last_state", true),
                          sequences(cu_seqlens, state_indices, kOp)};
  if (inputs.u.n_dims != 3)
    throw ArgumentError("[ssm_scan] u must have shape (any, any, any), got shape " + shape_text(u));
  py::array result = new_like(inputs.u);
  const Strided y = strided(result, kOp, "the output", true);
  {
    py::gil_scoped_release release;
    ssm_scan(pool, inputs, y);
  }
  return result;
}

// Contiguous and new, of None where the argument is.
py::object optional_like(const py::object& value, std::vector<py::ssize_t> shape) {
  if (value.is_none()) return py::none();
  return py::array_t<float>(std::move(shape));
}

float* data_of(py::object& array) {
  return array.is_none() ? nullptr : py::reinterpret_borrow<py::array_t<float>>(array).mutable_data();
}

py::tuple py_ssm_scan_gradient(Pool& pool, const py::object& grad_y, const py::object& grad_last, const py::object& u,
                               const py::object& delta, const py::object& A, const py::object& B, const py::object& C,
                               const py::object& D, const py::object& z, const py::object& delta_bias,
                               bool delta_softplus, const py::object& initial_state) {
  constexpr const char* kOp = "ssm_scan_gradient";
  const ScanInputs inputs{strided(u, kOp, "u"),
                          strided(delta, kOp, "delta"),
                          strided(A, kOp, "A"),
                          strided(B, kOp, "B"),
                          strided(C, kOp, "C"),
                          strided(D, kOp, "D"),
                          strided(z, kOp, "z"),
                          strided(delta_bias, kOp, "delta_bias"),
                          delta_softplus,
                          strided(initial_state, kOp, "initial_state"),
                          {},
                          {}};
  const Strided grad = strided(grad_y, kOp, "grad_y"), last = strided(grad_last, kOp, "grad_last");
  const auto [batch, length, channels, heads, groups, n_state] = scan_gradient_shape(inputs, grad, last);
  py::object of_u = py::array_t<float>({batch, length, channels}), of_z = optional_like(z, {batch, length, channels});
  py::object of_delta = py::array_t<float>({batch, length, heads}), of_a = py::array_t<float>(heads);
  py::object of_b = py::array_t<float>({batch, length, groups, n_state});
  py::object of_c = py::array_t<float>({batch, length, groups, n_state});
  py::object of_d = optional_like(D, {D.is_none() ? 0 : inputs.D.shape[0]});
  py::object of_bias = optional_like(delta_bias, {heads});
  py::object of_initial = py::array_t<float>({batch, channels, n_state});
  const ScanGradients out{data_of(of_u), data_of(of_delta), data_of(of_a),    data_of(of_b),      data_of(of_c),
                          data_of(of_d), data_of(of_z),     data_of(of_bias), data_of(of_initial)};
  {
    py::gil_scoped_release release;
    scan_gradient(pool, inputs, grad, last, out);
  }
  return py::make_tuple(of_u, of_delta, of_a, of_b, of_c, of_d, of_z, of_bias, of_initial);
}

bool is_silu(const py::object& activation, const char* op) {
  const bool known = activation.is_none() || activation.equal(py::str("silu")) || activation.equal(py::str("swish"));
  if (!known)
    throw ArgumentError(std::string("[") + op + "] activation must be None, 'silu' or 'swish', got " +
                        std::string(py::repr(activation)));
  return !activation.is_none();
}

py::array py_causal_conv1d(Pool& pool, const py::object& x, const py::object& weight, const py::object& bias,
                           const py::object& activation, const py::object& initial_state, const py::object& last_state,
                           const py::object& cu_seqlens, const py::object& state_indices) {
  constexpr const char* kOp = "causal_conv1d";
  for (const auto& [name, value] : {std::pair{"x", &x}, {"weight", &weight}})
    if (value->is_none())
      throw ArgumentError(std::string("[causal_conv1d] ") + name + " must be a numpy array, got None");
  const ConvInputs inputs{strided(x, kOp, "x"),
                          strided(weight, kOp, "weight"),
                          strided(bias, kOp, "bias"),
                          is_silu(activation, kOp),
                          strided(initial_state, kOp, "initial_state"),
                          strided(last_state, kOp, "last_state", true),
                          sequences(cu_seqlens, state_indices, kOp)};
  if (inputs.x.n_dims != 3)
    throw ArgumentError("[causal_conv1d] x must have shape (any, any, any), got shape " + shape_text(x));
  py::array result = new_like(inputs.x);
  const Strided y = strided(result, kOp, "the output", true);
  {
    py::gil_scoped_release release;
    causal_conv1d(pool, inputs, y);
  }
  return result;
}

py::tuple py_causal_conv1d_gradient(Pool& pool, const py::object& grad_y, const py::object& grad_last,
                                    const py::object& x, const py::object& weight, const py::object& bias,
                                    const py::object& activation, const py::object& initial_state) {
  constexpr const char* kOp = "causal_conv1d_gradient";
  const ConvInputs inputs{strided(x, kOp, "x"),
                          strided(weight, kOp, "weight"),
                          strided(bias, kOp, "bias"),
                          is_silu(activation, kOp),
                          strided(initial_state, kOp, "initial_state"),
                          {},
                          {}};
  const Strided grad = strided(grad_y, kOp, "grad_y"), last = strided(grad_last, kOp, "grad_last");
  check_conv_gradient(inputs, grad, last);
  const int64_t batch = inputs.x.shape[0], channels = inputs.x.shape[1], width = inputs.weight.shape[1];
  py::object of_x = py::array_t<float>({batch, inputs.x.shape[2], channels});
  py::object of_weight = py::array_t<float>({channels, width}), of_bias = optional_like(bias, {channels});
  py::object of_initial = py::array_t<float>({batch, channels, width - 1});
  const ConvGradients out{data_of(of_x), data_of(of_weight), data_of(of_bias), data_of(of_initial)};
  {
    py::gil_scoped_release release;
    conv_gradient(pool, inputs, grad, last, out);
  }
  return py::make_tuple(of_x, of_weight, of_bias, of_initial);
}

// One function of vmath on a flat array, at the pool's SIMD level.
template <auto kMember>
py::array py_elementwise(Pool& pool, const py::array& x_) {
  const auto x = with_shape<float>(x_, {-1}, "vmath", "x");
  auto result = py::array_t<float>(x.shape(0));
  (recurrent_ops(pool.simd).*kMember)(x.data(), result.mutable_data(), x.shape(0));
  return result;
}

}  // namespace

void bind_recurrent(py::module_& m) {
  using py::arg;
  m.def("ssm_scan", &py_ssm_scan, arg("pool"), arg("u"), arg("delta"), arg("A"), arg("B"), arg("C"), arg("D"), arg("z"),
        arg("delta_bias"), arg("delta_softplus"), arg("initial_state"), arg("last_state"), arg("cu_seqlens"),
        arg("state_indices"));
  m.def("ssm_scan_gradient", &py_ssm_scan_gradient, arg("pool"), arg("grad_y"), arg("grad_last"), arg("u"),
        arg("delta"), arg("A"), arg("B"), arg("C"), arg("D"), arg("z"), arg("delta_bias"), arg("delta_softplus"),
        arg("initial_state"));
  m.def("causal_conv1d", &py_causal_conv1d, arg("pool"), arg("x"), arg("weight"), arg("bias"), arg("activation"),
        arg("initial_state"), arg("last_state"), arg("cu_seqlens"), arg("state_indices"));
  m.def("causal_conv1d_gradient", &py_causal_conv1d_gradient, arg("pool"), arg("grad_y"), arg("grad_last"), arg("x"),
        arg("weight"), arg("bias"), arg("activation"), arg("initial_state"));
  m.def("exp2", &py_elementwise<&RecurrentOps::exp2>, arg("pool"), arg("x"));
  m.def("softplus", &py_elementwise<&RecurrentOps::softplus>, arg("pool"), arg("x"));
}

}  // namespace vx
