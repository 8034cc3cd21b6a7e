// One layer of a decoder on numpy arrays.
#include "ops/decoder_layer.h"

#include <pybind11/stl.h>

#include <optional>

#include "bindings/activations.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace vx {
namespace {

constexpr const char* kOp = "decoder_layer";

// A layer and the arrays that it borrows.
class BoundLayer {
 public:
  BoundLayer(const Pager& pager, const py::object& spec) {
    layer_.attention_norm = vector(spec.attr("attention_norm"), -1, "attention_norm");
    layer_.mlp_norm = vector(spec.attr("mlp_norm"), static_cast<int64_t>(layer_.attention_norm.size()), "mlp_norm");
    layer_.eps = spec.attr("eps").cast<float>();
    layer_.heads = spec.attr("n_heads").cast<int64_t>();
    layer_.kv_heads = spec.attr("n_kv_heads").cast<int64_t>();
    layer_.head_dim = spec.attr("head_dim").cast<int64_t>();
    layer_.window = spec.attr("window").cast<int64_t>();
    layer_.scale = spec.attr("scale").cast<float>();
    layer_.activations = activations_by_name(kOp, spec.attr("activations").cast<std::string>());
    layer_.planes = planes_by_name(kOp, spec.attr("planes").cast<std::string>());
    if (const py::object norms = spec.attr("qk_norms"); !norms.is_none()) {
      const auto [q, k] = norms.cast<std::pair<py::array, py::array>>();
      layer_.q_norm = vector(q, layer_.head_dim, "q_norm");
      layer_.k_norm = vector(k, layer_.head_dim, "k_norm");
    }
    layer_.qkv = projections(pager, spec.attr("qkv"));
    layer_.o = projections(pager, spec.attr("o"));
    layer_.gate_up = projections(pager, spec.attr("gate_up"));
    layer_.down = projections(pager, spec.attr("down"));
    check_layer(pager, layer_);
  }

  const DecoderLayer& layer() const { return layer_; }

 private:
  In vector(const py::array& array, int64_t length, const char* name) {
    arrays_.push_back(with_shape<float>(array, {length}, kOp, name));
    return in(arrays_.back());
  }
  Projections projections(const Pager& pager, const py::object& group) {
    Projections out{group.attr("handles").cast<std::vector<int>>(), {}};
    const auto biases = group.attr("biases").cast<std::vector<std::optional<py::array>>>();
    for (size_t i = 0; i < biases.size(); ++i) {
      const int64_t rows = i < out.handles.size() ? pager.matrix(out.handles[i]).rows : -1;
      out.biases.push_back(biases[i] ? vector(*biases[i], rows, "a bias").data() : nullptr);
    }
    return out;
  }

  DecoderLayer layer_;
  std::vector<py::array_t<float>> arrays_;
};

void run(Pool& pool, Pager& pager, const BoundLayer& bound, const py::array& h_, const py::array& cos_,
         const py::array& sin_, const py::array& k_cache_, const py::array& v_cache_, int64_t pos,
         const std::optional<py::array>& depths_) {
  const DecoderLayer& layer = bound.layer();
  auto h = with_shape<float>(h_, {-1, static_cast<int64_t>(layer.attention_norm.size())}, kOp, "h");
  const int64_t tokens = h.shape(0), dim = layer.head_dim;
  const auto cos = with_shape<float>(cos_, {tokens, dim / 2}, kOp, "cos");
  const auto sin = with_shape<float>(sin_, {tokens, dim / 2}, kOp, "sin");
  auto k_cache = with_shape<float>(k_cache_, {layer.kv_heads, -1, padded_dim(dim)}, kOp, "k_cache");
  const int64_t capacity = k_cache.shape(1);
  auto v_cache = with_shape<float>(v_cache_, {layer.kv_heads, capacity, padded_dim(dim)}, kOp, "v_cache");
  const auto h_to = in_place(h, kOp, "h"), k_to = in_place(k_cache, kOp, "k_cache");
  const auto v_to = in_place(v_cache, kOp, "v_cache");
  const auto depths = depths_ ? checked<int64_t>(*depths_, 1, kOp, "depths") : py::array_t<int64_t>(0);
  const LayerRows rows{tokens, pos, in(depths)};
  const py::gil_scoped_release release;
  decoder_layer(pool, pager, layer, h_to, in(cos), in(sin), k_to, v_to, capacity, rows);
}

}  // namespace

void bind_decoder_layer(py::module_& m) {
  using py::arg;
  py::class_<BoundLayer>(m, "DecoderLayer", "A layer's matrices and vectors, checked against a pager.")
      .def(py::init<const Pager&, const py::object&>(), arg("pager"), arg("layer"));
  m.def("decoder_layer", &run, arg("pool"), arg("pager"), arg("layer"), arg("h"), arg("cos"), arg("sin"),
        arg("k_cache"), arg("v_cache"), arg("pos"), arg("depths") = py::none());
}

}  // namespace vx
