// bad_verify on numpy arrays.
#include "ops/bad_verify.h"

#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace vx {
namespace {

py::tuple py_bad_verify(Pool& pool, const py::array& draft_ids_, const py::array& target_logits_, double temperature,
                        int64_t top_k, double top_p, double min_p, uint64_t seed, int64_t position) {
  const auto draft_ids = with_shape<int64_t>(draft_ids_, {-1}, "bad_verify", "draft_ids");
  const auto logits = with_shape<float>(target_logits_, {draft_ids.shape(0) + 1, -1}, "bad_verify", "target_logits");
  const int64_t vocab = logits.shape(1);
  const SamplingLaw law{temperature, top_k, top_p, min_p};
  Verdict verdict{};
  {
    py::gil_scoped_release release;
    verdict = bad_verify(pool, in(draft_ids), in(logits), vocab, law, seed, position);
  }
  return py::make_tuple(verdict.n_accepted, verdict.next_id);
}

}  // namespace

void bind_bad_verify(py::module_& m) {
  using py::arg;
  m.def("bad_verify", &py_bad_verify, arg("pool"), arg("draft_ids"), arg("target_logits"), arg("temperature"),
        arg("top_k"), arg("top_p"), arg("min_p"), arg("seed"), arg("position"));
}

}  // namespace vx
