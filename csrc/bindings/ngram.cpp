// Drafting from a sequence's own n-grams.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <mutex>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "ngram/drafter.h"

namespace vx {
namespace {

// A push this long takes microseconds and releases the GIL; a shorter one, or a draft, takes less than that would.
constexpr size_t kLongPush = 256;

// The ids of any sequence of integers; a list of small ints costs some nanoseconds each.
void read_ids(const py::handle& sequence, std::vector<int32_t>& ids) {
  ids.clear();
  const auto append = [&](long long id) {
    if (id < 0 || id > INT32_MAX)
      throw ArgumentError("[ngram_drafter] ids must be from 0 to 2^31 - 1, got " + std::to_string(id));
    ids.push_back(static_cast<int32_t>(id));
  };
  if (py::isinstance<py::array_t<int64_t>>(sequence)) {
    const auto array = checked<int64_t>(py::reinterpret_borrow<py::array>(sequence), 1, "ngram_drafter", "ids");
    for (py::ssize_t i = 0; i < array.shape(0); ++i) append(array.at(i));
    return;
  }
  const auto items = py::reinterpret_steal<py::object>(
      PySequence_Fast(sequence.ptr(), "[ngram_drafter] ids must be a sequence of integers"));
  if (!items) throw py::error_already_set();
  PyObject** first = PySequence_Fast_ITEMS(items.ptr());
  for (py::ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items.ptr()); ++i) {
    int too_large = 0;
    long long id = 0;
    if (PyLong_Check(first[i])) {
      id = PyLong_AsLongLongAndOverflow(first[i], &too_large);
    } else {
      const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(first[i]));
      if (!index) throw py::error_already_set();
      id = PyLong_AsLongLongAndOverflow(index.ptr(), &too_large);
    }
    append(too_large != 0 ? -1 : id);
  }
}

// The lock makes a second thread wait; no thread waits for the GIL while it holds the lock.
class PyDrafter {
 public:
  PyDrafter(uint64_t max_tokens, float memory) : drafter_(max_tokens, memory) {}

  void push(const py::handle& sequence) {
    thread_local std::vector<int32_t> ids;
    read_ids(sequence, ids);
    if (ids.size() >= kLongPush) {
      const py::gil_scoped_release release;
      const std::lock_guard lock(mutex_);
      drafter_.push(ids);
    } else {
      const std::lock_guard lock(mutex_);
      drafter_.push(ids);
    }
  }

  py::tuple draft(uint32_t max_tokens, float min_probability) {
    const std::lock_guard lock(mutex_);
    drafter_.draft(max_tokens, min_probability);
    const size_t n = drafter_.ids().size();
    py::list drafted(n), probabilities(n);
    for (size_t i = 0; i < n; ++i) {
      const auto place = static_cast<py::ssize_t>(i);
      PyList_SET_ITEM(drafted.ptr(), place, PyLong_FromLong(drafter_.ids()[i]));
      PyList_SET_ITEM(probabilities.ptr(), place, PyFloat_FromDouble(drafter_.probabilities()[i]));
    }
    return py::make_tuple(std::move(drafted), std::move(probabilities));
  }

  py::tuple step(const py::handle& sequence, uint32_t max_tokens, float min_probability) {
    push(sequence);
    return draft(max_tokens, min_probability);
  }

  void separate() {
    const std::lock_guard lock(mutex_);
    drafter_.separate();
  }
  void freeze() {
    const std::lock_guard lock(mutex_);
    drafter_.freeze();
  }
  void restart() {
    const std::lock_guard lock(mutex_);
    drafter_.restart();
  }

  std::vector<float> rates() {
    const std::lock_guard lock(mutex_);
    return drafter_.rates();
  }

  uint64_t bytes() {
    const std::lock_guard lock(mutex_);
    return drafter_.bytes();
  }

 private:
  std::mutex mutex_;
  NgramDrafter drafter_;
};

}  // namespace

void bind_ngram(py::module_& m) {
  py::class_<PyDrafter>(m, "NgramDrafter", "Drafts from a sequence's own n-grams; see csrc/ngram/drafter.h.")
      .def(py::init<uint64_t, float>(), py::arg("max_tokens"), py::arg("memory") = NgramDrafter::kMemory)
      .def("push", &PyDrafter::push, py::arg("ids"), "Verified ids follow.")
      .def("draft", &PyDrafter::draft, py::arg("max_tokens"), py::arg("min_probability") = 0.0f,
           "(ids, probabilities): what may follow, each probability given that the ids before it are right.")
      .def("step", &PyDrafter::step, py::arg("ids"), py::arg("max_tokens"), py::arg("min_probability") = 0.0f,
           "push, then draft.")
      .def("separate", &PyDrafter::separate, "What follows begins another sequence.")
      .def("freeze", &PyDrafter::freeze, "Drafts come only from what was pushed so far.")
      .def("restart", &PyDrafter::restart, "Another sequence, the earlier ones forgotten; hit rates stay.")
      .def("rates", &PyDrafter::rates, "Hit rates as they are now, in the order of csrc/ngram/priors.h.")
      .def_property_readonly("bytes", &PyDrafter::bytes);
}

}  // namespace vx
