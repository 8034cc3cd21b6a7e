// RMSNorm, RoPE, attention, SwiGLU, surprise and entropy on numpy arrays.
#include "ops/small_ops.h"

#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace vx {
namespace {

py::array py_rms_norm(Pool& pool, const py::array& x_, const py::array& weight_, float eps) {
  const auto x = with_shape<float>(x_, {-1, -1}, "rms_norm", "x");
  const auto weight = with_shape<float>(weight_, {x.shape(1)}, "rms_norm", "weight");
  auto result = py::array_t<float>({x.shape(0), x.shape(1)});
  const auto to = fresh(result);
  {
    py::gil_scoped_release release;
    rms_norm(pool, in(x), in(weight), eps, to, x.shape(0), x.shape(1));
  }
  return result;
}

py::tuple py_rope_table(const py::array& positions_, const py::array& inv_freq_) {
  const auto positions = with_shape<int64_t>(positions_, {-1}, "rope_table", "positions");
  const auto inv_freq = with_shape<double>(inv_freq_, {-1}, "rope_table", "inv_freq");
  auto cos = py::array_t<float>({positions.shape(0), inv_freq.shape(0)});
  auto sin = py::array_t<float>({positions.shape(0), inv_freq.shape(0)});
  const auto cos_to = fresh(cos), sin_to = fresh(sin);
  {
    py::gil_scoped_release release;
    rope_table(in(positions), in(inv_freq), cos_to, sin_to);
  }
  return py::make_tuple(cos, sin);
}

py::array py_rope(Pool& pool, const py::array& x_, const py::array& cos_, const py::array& sin_) {
  const auto x = with_shape<float>(x_, {-1, -1, -1}, "rope", "x");
  const auto cos = with_shape<float>(cos_, {x.shape(0), -1}, "rope", "cos");
  const auto sin = with_shape<float>(sin_, {x.shape(0), cos.shape(1)}, "rope", "sin");
  auto result = py::array_t<float>({x.shape(0), x.shape(1), x.shape(2)});
  const auto to = fresh(result);
  {
    py::gil_scoped_release release;
    rope(pool, in(x), in(cos), in(sin), to, x.shape(0), x.shape(1), cos.shape(1));
  }
  return result;
}

void py_kv_append(const py::array& k_, const py::array& v_, const py::array& k_cache_, const py::array& v_cache_,
                  int64_t pos) {
  const auto k = with_shape<float>(k_, {-1, -1, -1}, "kv_append", "k");
  const int64_t tokens = k.shape(0), kv_heads = k.shape(1), dim = k.shape(2);
  const auto v = with_shape<float>(v_, {tokens, kv_heads, dim}, "kv_append", "v");
  auto k_cache = with_shape<float>(k_cache_, {kv_heads, -1, padded_dim(dim)}, "kv_append", "k_cache");
  const int64_t capacity = k_cache.shape(1);
  auto v_cache = with_shape<float>(v_cache_, {kv_heads, capacity, padded_dim(dim)}, "kv_append", "v_cache");
  const auto k_to = in_place(k_cache, "kv_append", "k_cache"), v_to = in_place(v_cache, "kv_append", "v_cache");
  py::gil_scoped_release release;
  kv_append(in(k), in(v), k_to, v_to, {kv_heads, capacity, dim}, tokens, pos);
}

void py_kv_move(const py::array& k_cache_, const py::array& v_cache_, int64_t source, int64_t target) {
  auto k_cache = with_shape<float>(k_cache_, {-1, -1, -1}, "kv_move", "k_cache");
  const int64_t kv_heads = k_cache.shape(0), capacity = k_cache.shape(1), padded = k_cache.shape(2);
  if (padded != padded_dim(padded))
    throw ArgumentError("[kv_move] k_cache must have rows of a multiple of 16, got shape " + shape_text(k_cache));
  auto v_cache = with_shape<float>(v_cache_, {kv_heads, capacity, padded}, "kv_move", "v_cache");
  const auto k_to = in_place(k_cache, "kv_move", "k_cache"), v_to = in_place(v_cache, "kv_move", "v_cache");
  py::gil_scoped_release release;
  kv_move(k_to, v_to, {kv_heads, capacity, padded}, source, target);
}

py::array py_attend(Pool& pool, const py::array& q_, const py::array& k_cache_, const py::array& v_cache_, int64_t pos,
                    int64_t window, float scale) {
  const auto q = with_shape<float>(q_, {-1, -1, -1}, "attend", "q");
  const int64_t tokens = q.shape(0), heads = q.shape(1), dim = q.shape(2);
  const auto k_cache = with_shape<float>(k_cache_, {-1, -1, padded_dim(dim)}, "attend", "k_cache");
  const int64_t kv_heads = k_cache.shape(0), capacity = k_cache.shape(1);
  const auto v_cache = with_shape<float>(v_cache_, {kv_heads, capacity, padded_dim(dim)}, "attend", "v_cache");
  auto result = py::array_t<float>({tokens, heads, dim});
  const auto to = fresh(result);
  {
    py::gil_scoped_release release;
    attend(pool, in(q), in(k_cache), in(v_cache), to, {kv_heads, capacity, dim}, {tokens, heads, pos, window}, scale);
  }
  return result;
}

py::array py_swiglu(Pool& pool, const py::array& gate_, const py::array& up_) {
  const auto gate = with_shape<float>(gate_, {-1, -1}, "swiglu", "gate");
  const auto up = with_shape<float>(up_, {gate.shape(0), gate.shape(1)}, "swiglu", "up");
  auto result = py::array_t<float>({gate.shape(0), gate.shape(1)});
  const auto to = fresh(result);
  {
    py::gil_scoped_release release;
    swiglu(pool, in(gate), in(up), to);
  }
  return result;
}

py::array py_token_surprises(Pool& pool, const py::array& logits_, const py::array& ids_) {
  const auto logits = with_shape<float>(logits_, {-1, -1}, "token_surprises", "logits");
  const auto ids = with_shape<int64_t>(ids_, {logits.shape(0)}, "token_surprises", "ids");
  auto result = py::array_t<float>({logits.shape(0)});
  const auto to = fresh(result);
  {
    py::gil_scoped_release release;
    token_surprises(pool, in(logits), in(ids), to, logits.shape(1));
  }
  return result;
}

py::array py_entropies(Pool& pool, const py::array& logits_) {
  const auto logits = with_shape<float>(logits_, {-1, -1}, "entropies", "logits");
  auto result = py::array_t<float>({logits.shape(0)});
  const auto to = fresh(result);
  {
    py::gil_scoped_release release;
    entropies(pool, in(logits), to, logits.shape(1));
  }
  return result;
}

}  // namespace

void bind_small_ops(py::module_& m) {
  using py::arg;
  m.def("rms_norm", &py_rms_norm, arg("pool"), arg("x"), arg("weight"), arg("eps"));
  m.def("rope_table", &py_rope_table, arg("positions"), arg("inv_freq"));
  m.def("rope", &py_rope, arg("pool"), arg("x"), arg("cos"), arg("sin"));
  m.def("kv_append", &py_kv_append, arg("k"), arg("v"), arg("k_cache"), arg("v_cache"), arg("pos"));
  m.def("kv_move", &py_kv_move, arg("k_cache"), arg("v_cache"), arg("source"), arg("target"));
  m.def("attend", &py_attend, arg("pool"), arg("q"), arg("k_cache"), arg("v_cache"), arg("pos"), arg("window"),
        arg("scale"));
  m.def("swiglu", &py_swiglu, arg("pool"), arg("gate"), arg("up"));
  m.def("token_surprises", &py_token_surprises, arg("pool"), arg("logits"), arg("ids"));
  m.def("entropies", &py_entropies, arg("pool"), arg("logits"));
}

}  // namespace vx
