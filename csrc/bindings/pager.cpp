// The pager and the ops that read tiles through it.
#include "c3/pager.h"

#include <pybind11/stl.h>

#include <optional>

#include "bindings/activations.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "common/pool.h"
#include "ops/paged_linear.h"
#include "ops/paged_linear_transposed.h"

namespace vx {
namespace {

PolicyKind policy_by_name(const std::string& name) {
  if (name == "stable") return PolicyKind::stable;
  if (name == "lru") return PolicyKind::lru;
  throw ArgumentError("[pager] policy must be stable or lru, got " + name);
}

int add_matrix(Pager& pager, const std::string& name, int file, uint64_t base_offset, const py::array& index) {
  const auto rows = checked<uint64_t>(index, 2, "add_matrix", "index");
  if (rows.shape(1) != 8) throw ArgumentError("[add_matrix] index must have 8 columns, got shape " + shape_text(index));
  return pager.add_matrix(name, file, base_offset, rows.data(), rows.shape(0));
}

py::dict counters(const Pager& pager) {
  const Counters c = pager.counters();
  py::dict out;
  out["page_faults"] = c.page_faults;
  out["hits"] = c.hits;
  out["prefetch_hits"] = c.prefetch_hits;
  out["bytes_compressed_read"] = c.bytes_compressed_read;
  out["evictions"] = c.evictions;
  out["stall_s"] = c.stall_s;
  out["resident_bytes"] = c.resident_bytes;
  out["held_bytes"] = c.held_bytes;
  out["peak_bytes"] = c.peak_bytes;
  out["budget_bytes"] = c.budget_bytes;
  out["total_bytes"] = c.total_bytes;
  out["n_tiles"] = c.n_tiles;
  out["n_resident_tiles"] = c.n_resident_tiles;
  out["n_kept_prefixes"] = c.n_kept_prefixes;
  out["follows_recency"] = c.follows_recency;
  out["io_mode"] = c.io_mode == IoMode::direct ? "o_direct" : "buffered";
  return out;
}

py::list linear(Pool& pool, Pager& pager, const std::vector<int>& handles, const py::array& x,
                const std::vector<std::optional<py::array>>& biases, const std::string& activations_name,
                const std::string& planes_name) {
  const Activations activations = activations_by_name("paged_linear", activations_name);
  const Planes planes = planes_by_name("paged_linear", planes_name);
  const auto rows = checked<float>(x, 2, "paged_linear", "x");
  if (biases.size() != handles.size())
    throw ArgumentError("[paged_linear] biases must have one entry a handle, got " + std::to_string(biases.size()) +
                        " for " + std::to_string(handles.size()));
  std::vector<LinearPart> parts;
  py::list outs;
  for (size_t i = 0; i < handles.size(); ++i) {
    const int64_t n = pager.matrix(handles[i]).rows;
    const float* bias = nullptr;
    if (biases[i]) {
      const auto values = checked<float>(*biases[i], 1, "paged_linear", "bias");
      if (values.size() != n)
        throw ArgumentError("[paged_linear] bias must have " + std::to_string(n) + " items, got " +
                            std::to_string(values.size()));
      bias = values.data();
    }
    py::array_t<float> out({rows.shape(0), static_cast<py::ssize_t>(n)});
    parts.push_back({handles[i], bias, out.mutable_data(), n});
    outs.append(std::move(out));
  }
  const float* data = rows.data();
  const int64_t n_rows = rows.shape(0), in_features = rows.shape(1);
  const py::gil_scoped_release release;
  paged_linear(pool.threads, pool.simd, pager, parts, data, n_rows, in_features, activations, planes);
  return outs;
}

py::array_t<float> linear_transposed(Pool& pool, Pager& pager, int handle, const py::array& x) {
  const auto rows = checked<float>(x, 2, "paged_linear_transposed", "x");
  const int64_t cols = pager.matrix(handle).cols;
  py::array_t<float> out({rows.shape(0), static_cast<py::ssize_t>(cols)});
  const float* data = rows.data();
  const int64_t n_rows = rows.shape(0), in_features = rows.shape(1);
  float* to = out.mutable_data();
  {
    const py::gil_scoped_release release;
    paged_linear_transposed(pool.threads, pool.simd, pager, handle, data, n_rows, in_features, to);
  }
  return out;
}

py::array_t<float> embed(Pool& pool, Pager& pager, int handle, const py::array& ids, const std::string& planes_name) {
  const Planes planes = planes_by_name("embed_rows", planes_name);
  const auto wanted = checked<int64_t>(ids, 1, "embed_rows", "ids");
  const int64_t cols = pager.matrix(handle).cols;
  py::array_t<float> out({wanted.size(), static_cast<py::ssize_t>(cols)});
  const int64_t* data = wanted.data();
  const int64_t n = wanted.size();
  float* to = out.mutable_data();
  {
    const py::gil_scoped_release release;
    embed_rows(pool.threads, pool.simd, pager, handle, data, n, to, cols, planes);
  }
  return out;
}

}  // namespace

void bind_pager(py::module_& m) {
  using Release = py::call_guard<py::gil_scoped_release>;
  py::class_<Pager>(m, "Pager", "Owns where tiles live, inside a hard byte budget; see csrc/c3/pager.h.")
      .def(py::init([](uint64_t budget_bytes, const std::string& policy, int prefetch_depth, int io_threads) {
             return std::make_unique<Pager>(budget_bytes, policy_by_name(policy), prefetch_depth, io_threads);
           }),
           py::arg("budget_bytes"), py::arg("policy") = "stable", py::arg("prefetch_depth") = 8,
           py::arg("io_threads") = 8)
      .def(
          "add_file", [](Pager& pager, const std::string& path) { return pager.add_file(path); }, py::arg("path"))
      .def("add_matrix", add_matrix, py::arg("name"), py::arg("file"), py::arg("base_offset"), py::arg("index"))
      .def("start", &Pager::start, py::arg("sweep"), py::arg("drafted") = std::vector<int>{}, Release())
      .def("shape",
           [](const Pager& pager, int handle) {
             const Matrix& matrix = pager.matrix(handle);
             return py::make_tuple(matrix.rows, matrix.cols);
           })
      .def("minimum_budget", &Pager::minimum_budget)
      .def("total_bytes", &Pager::total_bytes)
      .def("verify", &Pager::verify, py::arg("handle"), Release())
      .def("counters", counters)
      .def("reset_counters", &Pager::reset_counters)
      .def("close", &Pager::close, Release());
  m.def("paged_linear", linear, py::arg("pool"), py::arg("pager"), py::arg("handles"), py::arg("x"), py::arg("biases"),
        py::arg("activations") = "float", py::arg("planes") = "all",
        "x [M, K] times every matrix, float32: a list of [M, N] arrays. activations: float or int8, for integer tiles. "
        "planes: all, prefix or resident, of exact tiles.");
  m.def("paged_linear_transposed", linear_transposed, py::arg("pool"), py::arg("pager"), py::arg("handle"),
        py::arg("x"), "x [M, N] times a matrix [N, K] as it is, float32 [M, K].");
  m.def("embed_rows", embed, py::arg("pool"), py::arg("pager"), py::arg("handle"), py::arg("ids"),
        py::arg("planes") = "all", "Rows of a matrix, float32 [T, K].");
}

}  // namespace vx
