// LAVA banks on numpy arrays.
#include <pybind11/stl.h>

#include <optional>
#include <shared_mutex>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "lava/bank.h"
#include "lava/state.h"
#include "ops/lava_search.h"

namespace vx {
namespace {

BankOptions options_of(int64_t dim, int64_t value_dim, int64_t capacity, int64_t nlist, const std::string& contents,
                       double ema, double half_life) {
  return {dim, value_dim, capacity, nlist, contents_named(contents), ema, half_life};
}

py::array_t<int64_t> py_insert(LavaBank& bank, Pool& pool, const py::array& keys_, const py::array& values_,
                               const py::array& positions_, const py::array& importance_) {
  constexpr const char* kOp = "insert";
  const auto keys = with_shape<float>(keys_, {-1, bank.keys().dim()}, kOp, "keys");
  const auto values = with_shape<float>(values_, {keys.shape(0), bank.values().dim()}, kOp, "values");
  const auto positions = with_shape<int64_t>(positions_, {keys.shape(0)}, kOp, "positions");
  const auto importance = with_shape<float>(importance_, {keys.shape(0)}, kOp, "importance");
  py::array_t<int64_t> ids(keys.shape(0));
  const std::span<int64_t> out(ids.mutable_data(), static_cast<size_t>(ids.size()));
  {
    const py::gil_scoped_release release;
    bank.insert(pool, {in(keys), in(values), in(positions), in(importance)}, out);
  }
  return ids;
}

void py_remove(LavaBank& bank, const py::array& ids_) {
  const auto ids = with_shape<int64_t>(ids_, {-1}, "remove", "ids");
  const py::gil_scoped_release release;
  bank.remove(in(ids));
}

void py_set_importance(LavaBank& bank, const py::array& ids_, const py::array& importance_) {
  const auto ids = with_shape<int64_t>(ids_, {-1}, "set_importance", "ids");
  const auto importance = with_shape<float>(importance_, {ids.shape(0)}, "set_importance", "importance");
  const py::gil_scoped_release release;
  bank.set_importance(in(ids), in(importance));
}

template <auto kMember, class... Arguments>
auto without_gil(LavaBank& bank, Arguments... arguments) {
  const py::gil_scoped_release release;
  return (bank.*kMember)(arguments...);
}

py::dict py_stats(const LavaBank& bank) {
  BankStats s{};
  {
    const py::gil_scoped_release release;
    s = bank.stats();
  }
  py::dict stats;
  stats["slots"] = s.n_slots;
  stats["lists"] = s.n_lists;
  stats["splits"] = s.n_splits;
  stats["merges"] = s.n_merges;
  stats["moves"] = s.n_moves;
  stats["longest_pause_s"] = s.longest_pause_s;
  return stats;
}

py::tuple py_search(Pool& pool, const LavaBank& bank, const py::array& q_, int64_t nprobe, int64_t k) {
  const auto q = with_shape<float>(q_, {-1, bank.keys().dim()}, "lava_search", "q");
  if (k < 1 || k > int64_t{1} << 24)
    throw ArgumentError("[lava_search] k must be from 1 to 16777216, got " + std::to_string(k));
  py::array_t<int64_t> ids({q.shape(0), static_cast<py::ssize_t>(k)});
  py::array_t<float> scores({q.shape(0), static_cast<py::ssize_t>(k)});
  const std::span<int64_t> ids_out(ids.mutable_data(), static_cast<size_t>(ids.size()));
  const auto scores_out = fresh(scores);
  {
    const py::gil_scoped_release release;
    lava_search(pool, bank, in(q), nprobe, k, ids_out, scores_out);
  }
  return py::make_tuple(ids, scores);
}

py::tuple py_read(Pool& pool, const LavaBank& bank, const py::array& q_, const py::array& scale_, int64_t nprobe,
                  std::optional<int64_t> k, bool tail, const py::array& recent_keys_, const py::array& recent_values_,
                  const py::array& recent_range_, bool return_bound) {
  constexpr const char* kOp = "lava_read";
  const int64_t dim = bank.keys().dim(), value_dim = bank.values().dim();
  const auto q = with_shape<float>(q_, {-1, dim}, kOp, "q");
  const auto scale = with_shape<float>(scale_, {q.shape(0)}, kOp, "scale");
  const auto recent_keys = with_shape<float>(recent_keys_, {-1, dim}, kOp, "recent_keys");
  const auto recent_values = with_shape<float>(recent_values_, {recent_keys.shape(0), value_dim}, kOp, "recent_values");
  const auto range = with_shape<int64_t>(recent_range_, {q.shape(0), 2}, kOp, "recent_range");
  py::array_t<float> out({q.shape(0), static_cast<py::ssize_t>(value_dim)});
  py::array_t<float> bound(return_bound ? q.shape(0) : 0);
  const auto out_span = fresh(out), bound_span = fresh(bound);
  {
    const py::gil_scoped_release release;
    lava_read(pool, bank, {in(q), in(scale), nprobe, k, tail, in(recent_keys), in(recent_values), in(range)}, out_span,
              bound_span);
  }
  return py::make_tuple(out, return_bound ? py::object(bound) : py::object(py::none()));
}

std::vector<float> basis_rows(const py::array& rows_, const char* name, int64_t dim) {
  const auto rows = with_shape<float>(rows_, {-1, dim}, "lava_bank", name);
  return {rows.data(), rows.data() + rows.size()};
}

template <class T>
py::array_t<T> array_of(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

template <class T>
void take(std::vector<T>& out, const py::dict& arrays, const char* name) {
  if (!arrays.contains(name))
    throw ArgumentError(std::string("[lava_bank] a saved bank must have ") + name + ", got none");
  const auto array = py::reinterpret_borrow<py::object>(arrays[name]);
  if (!py::isinstance<py::array>(array))
    throw ArgumentError(std::string("[lava_bank] ") + name + " must be a numpy array");
  const auto values = with_shape<T>(py::reinterpret_borrow<py::array>(array), {-1}, "lava_bank", name);
  out.assign(values.data(), values.data() + values.size());
}

// fn(name, member) for every array of a state.
template <class State, class F>
void each_array(State& s, F&& fn) {
  fn("lists", s.lists);
  fn("places", s.places);
  fn("positions", s.positions);
  fn("importance", s.importance);
  fn("key_scales", s.key_scales);
  fn("value_scales", s.value_scales);
  fn("keys", s.keys);
  fn("values", s.values);
  fn("free_slots", s.free_slots);
  fn("is_alive", s.is_alive);
  fn("no_split_below", s.no_split_below);
  fn("centroids", s.centroids);
  fn("key_anchors", s.key_anchors);
  fn("value_anchors", s.value_anchors);
  fn("key_sums", s.key_sums);
  fn("value_sums", s.value_sums);
  fn("key_radii", s.key_radii);
  fn("value_radii", s.value_radii);
  fn("split_gains", s.split_gains);
  fn("merge_costs", s.merge_costs);
  fn("merge_with", s.merge_with);
  fn("n_stirred", s.n_stirred);
  fn("jobs", s.jobs);
  fn("history", s.history);
  fn("key_basis", s.key_basis);
  fn("value_basis", s.value_basis);
}

py::dict py_state(const LavaBank& bank) {
  BankState state;
  {
    const py::gil_scoped_release release;
    state = bank_state(bank);
  }
  py::dict arrays;
  each_array(state, [&](const char* name, const auto& values) { arrays[name] = array_of(values); });
  return arrays;
}

std::unique_ptr<LavaBank> py_make_bank(const Pool& pool, const py::dict& arrays, int64_t dim, int64_t value_dim,
                                       int64_t capacity, int64_t nlist, const std::string& contents, double ema,
                                       double half_life) {
  BankState state;
  each_array(state, [&](const char* name, auto& values) { take(values, arrays, name); });
  return make_bank(options_of(dim, value_dim, capacity, nlist, contents, ema, half_life), pool.simd, state);
}

// What a reference needs: slots in use, in the order of their ids, as the contents decode; and the lists.
py::dict py_export(const LavaBank& bank) {
  const std::shared_lock lock(bank.mutex());
  const Store& store = bank.store();
  const Counters& c = store.counters();
  const int64_t dim = bank.keys().dim(), value_dim = bank.values().dim();
  const auto d = static_cast<py::ssize_t>(dim), dv = static_cast<py::ssize_t>(value_dim);
  std::vector<float> row(static_cast<size_t>(std::max(dim, value_dim)));
  std::vector<int64_t> ids, lists, positions;
  std::vector<float> importance;
  py::array_t<float> keys({static_cast<py::ssize_t>(c.n_live), d}), values({static_cast<py::ssize_t>(c.n_live), dv});
  for (int64_t id = 0; id < c.n_slots; ++id) {
    if (!store.is_live(id)) continue;
    const auto at = static_cast<int64_t>(ids.size());
    store.key_of(id, row.data());
    bank.keys().expand(store.ops, row.data(), keys.mutable_data() + at * dim);
    store.value_of(id, row.data());
    bank.values().expand(store.ops, row.data(), values.mutable_data() + at * value_dim);
    ids.push_back(id);
    lists.push_back(store.slot(id).list);
    positions.push_back(store.slot(id).position);
    importance.push_back(store.slot(id).importance);
  }
  py::array_t<float> centroids({static_cast<py::ssize_t>(c.n_lists), d});
  py::list is_alive;
  for (int32_t i = 0; i < c.n_lists; ++i) {
    bank.keys().expand(store.ops, store.direction(i), centroids.mutable_data() + i * dim);
    is_alive.append(store.list(i).head.is_alive != 0);
  }
  py::dict arrays;
  arrays["ids"] = array_of(ids);
  arrays["keys"] = keys;
  arrays["values"] = values;
  arrays["positions"] = array_of(positions);
  arrays["importance"] = array_of(importance);
  arrays["lists"] = array_of(lists);
  arrays["centroids"] = centroids;
  arrays["is_alive"] = py::module_::import("numpy").attr("array")(is_alive, py::arg("dtype") = "bool");
  return arrays;
}

}  // namespace

void bind_lava(py::module_& m) {
  using py::arg;
  py::class_<LavaBank>(m, "LavaBank", "The memory of a LAVA layer; see csrc/lava/bank.h.")
      .def(py::init([](const Pool& pool, int64_t dim, int64_t value_dim, int64_t capacity, int64_t nlist,
                       const std::string& contents, double ema, double half_life, const py::array& key_basis,
                       const py::array& value_basis) {
             return std::make_unique<LavaBank>(options_of(dim, value_dim, capacity, nlist, contents, ema, half_life),
                                               pool.simd, basis_rows(key_basis, "key_basis", dim),
                                               basis_rows(value_basis, "value_basis", value_dim));
           }),
           arg("pool"), arg("dim"), arg("value_dim"), arg("capacity"), arg("nlist"), arg("contents"), arg("ema"),
           arg("half_life"), arg("key_basis"), arg("value_basis"))
      .def_static("from_state", &py_make_bank, arg("pool"), arg("state"), arg("dim"), arg("value_dim"), arg("capacity"),
                  arg("nlist"), arg("contents"), arg("ema"), arg("half_life"))
      .def("state", &py_state)
      .def("export", &py_export)
      .def("insert", &py_insert, arg("pool"), arg("keys"), arg("values"), arg("positions"), arg("importance"))
      .def("remove", &py_remove, arg("ids"))
      .def("set_importance", &py_set_importance, arg("ids"), arg("importance"))
      .def("begin", &without_gil<&LavaBank::begin>)
      .def("commit", &without_gil<&LavaBank::commit, int64_t>, arg("mark"))
      .def("rollback", &without_gil<&LavaBank::rollback, int64_t>, arg("mark"))
      .def("stats", &py_stats)
      .def_property_readonly("n_bytes", [](const LavaBank& bank) {
        const py::gil_scoped_release release;
        return bank.n_bytes();
      });
  m.def("lava_search", &py_search, arg("pool"), arg("bank"), arg("q"), arg("nprobe"), arg("k"));
  m.def("lava_read", &py_read, arg("pool"), arg("bank"), arg("q"), arg("scale"), arg("nprobe"), arg("k"), arg("tail"),
        arg("recent_keys"), arg("recent_values"), arg("recent_range"), arg("return_bound"));
}

}  // namespace vx
