// Checking every tile of a shard from Python.
#include "c3/verify.h"

#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <tuple>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "c3/tile_index.h"

namespace vx {
namespace {

using NamedIndex = std::tuple<std::string, uint64_t, py::array>;  // name, base offset, index

py::tuple verify(const std::string& path, uint64_t file_bytes, const std::vector<NamedIndex>& indices, int threads,
                 const py::object& progress) {
  std::vector<VerifiedMatrix> matrices;
  for (const auto& [name, base_offset, index] : indices) {
    const auto rows = checked<uint64_t>(index, 2, "verify_shard", "index");
    if (rows.shape(1) != kIndexColumns)
      throw ArgumentError("[verify_shard] index must have 8 columns, got shape " + shape_text(index));
    matrices.push_back({name, base_offset, rows.data(), rows.shape(0)});
  }
  std::function<void(uint64_t)> report;
  if (!progress.is_none())
    report = [&](uint64_t bytes) {
      const py::gil_scoped_acquire acquire;
      progress(bytes);
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    };
  ShardVerdict verdict;
  {
    const py::gil_scoped_release release;
    verdict = verify_shard(path, file_bytes, matrices, threads, report);
  }
  py::list bad;
  for (const BadTile& tile : verdict.bad)
    bad.append(py::make_tuple(tile.tensor, tile.tile >= 0 ? py::object(py::int_(tile.tile)) : py::none(), tile.offset,
                              tile.reason));
  return py::make_tuple(verdict.bytes_read, verdict.io_mode == IoMode::direct ? "o_direct" : "buffered", bad);
}

}  // namespace

void bind_verify(py::module_& m) {
  m.def("verify_shard", verify, py::arg("path"), py::arg("file_bytes"), py::arg("matrices"), py::arg("threads"),
        py::arg("progress") = py::none(),
        "Checks every tile of the matrices (name, base_offset, index); (bytes read, io mode, [(tensor, tile, offset, "
        "reason)]).");
}

}  // namespace vx
