// The Python module vortex_engine._native: the thread pool, what this machine can run, and the mapping of errors.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <new>

#include "bindings/bindings.h"
#include "common/crc32c.h"
#include "common/errors.h"
#include "common/pool.h"

#if defined(__linux__)
#include <fcntl.h>
#endif

namespace py = pybind11;

namespace {

std::vector<std::string> simd_levels() {
  std::vector<std::string> names;
  for (vx::Simd level : vx::simd_available()) names.emplace_back(vx::simd_name(level));
  return names;
}

vx::Simd simd_by_name(const std::string& name) {
  for (vx::Simd level : vx::simd_available())
    if (name == vx::simd_name(level)) return level;
  throw vx::ArgumentError("[simd] must be one of the levels this machine has, got " + name);
}

uint32_t crc_of(const py::buffer& buffer, uint32_t crc) {
  const py::buffer_info info = buffer.request();
  py::ssize_t expected = info.itemsize;
  for (py::ssize_t i = info.ndim; i-- > 0; expected *= info.shape[i])
    if (info.shape[i] > 1 && info.strides[i] != expected)
      throw vx::ArgumentError("[crc32c] the buffer must be C-contiguous");
  const py::gil_scoped_release release;
  return vx::crc32c(info.ptr, static_cast<size_t>(info.size * info.itemsize), crc);
}

// What goes wrong is fsync's to report.
void start_writeback(int fd, int64_t offset, int64_t n_bytes) {
  const py::gil_scoped_release release;
#if defined(__linux__)
  static_cast<void>(sync_file_range(fd, offset, n_bytes, SYNC_FILE_RANGE_WRITE));
#else
  static_cast<void>(fd), static_cast<void>(offset), static_cast<void>(n_bytes);
#endif
}

// Raises vortex_engine.errors.<name>(message, **fields).
void raise(const char* name, const char* message, const py::dict& fields = py::dict()) {
  const py::object type = py::module_::import("vortex_engine.errors").attr(name);
  const py::object error = type(message, **fields);
  PyErr_SetObject(type.ptr(), error.ptr());
}

void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const vx::CorruptTile& e) {
    py::dict fields;
    fields["file"] = e.file;
    fields["tensor"] = e.tensor;
    fields["tile"] = e.tile >= 0 ? py::object(py::int_(e.tile)) : py::none();
    fields["offset"] = e.offset;
    raise("CorruptTileError", e.what(), fields);
  } catch (const vx::BudgetTooSmall& e) {
    raise("BudgetError", e.what());
  } catch (const vx::MachineFailure& e) {
    raise("MachineError", e.what());
  } catch (const vx::NotFinite& e) {
    raise("VortexError", e.what());
  } catch (const std::bad_alloc&) {
    raise("MachineError", "out of memory in native code; lower the RAM budget, the context or the prefill chunk");
  } catch (const vx::ArgumentError& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  }
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Native core of vortex_engine: codecs, pager and CPU ops. Arrays are numpy, C-contiguous, never converted.";
  py::register_exception_translator(translate);
  m.def("simd_levels", simd_levels, "SIMD levels this machine can run, fastest first.");
  m.def("crc32c", crc_of, py::arg("buffer"), py::arg("crc") = 0, "crc32c (Castagnoli) of a buffer, continuing `crc`.");
  m.def("start_writeback", start_writeback, py::arg("fd"), py::arg("offset"), py::arg("n_bytes"),
        "Has Linux begin to write a range of a file to the disk, a hint before fsync; does nothing elsewhere.");
  py::class_<vx::Pool>(m, "Pool", "Threads and a SIMD level; results never depend on either.")
      .def(py::init([](int n_threads, const std::string& simd) {
             return std::make_unique<vx::Pool>(n_threads, simd_by_name(simd));
           }),
           py::arg("n_threads"), py::arg("simd"))
      .def_property_readonly("n_threads", [](const vx::Pool& pool) { return pool.threads.size(); })
      .def_property_readonly("simd", [](const vx::Pool& pool) { return vx::simd_name(pool.simd); });
  vx::bind_bad_verify(m);
  vx::bind_codec(m);
  vx::bind_decoder_layer(m);
  vx::bind_lava(m);
  vx::bind_ngram(m);
  vx::bind_pager(m);
  vx::bind_gradients(m);
  vx::bind_recurrent(m);
  vx::bind_small_ops(m);
  vx::bind_verify(m);
}
