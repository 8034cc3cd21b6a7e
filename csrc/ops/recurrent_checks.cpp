#include "ops/recurrent_checks.h"

#include <algorithm>
#include <cmath>

#include "common/errors.h"

namespace vx {
namespace {

std::string text(const int64_t* values, int64_t n) {
  std::string list;
  for (int64_t i = 0; i < n; ++i) list += (i > 0 ? ", " : "") + std::to_string(values[i]);
  return list;
}

std::string text(std::span<const int64_t> values) {
  constexpr size_t kShown = 16;
  const auto n = static_cast<int64_t>(std::min(values.size(), kShown));
  std::string list = "[";
  list += text(values.data(), n);
  return list += values.size() > kShown ? ", ...]" : "]";
}

void check_bounds(const Arguments& args, std::span<const int64_t> bounds, int64_t batch, int64_t length) {
  const bool ascending =
      !bounds.empty() && bounds.front() == 0 && bounds.back() == length && std::is_sorted(bounds.begin(), bounds.end());
  if (batch != 1 || !ascending)
    args.fail("cu_seqlens must ascend from 0 to the length " + std::to_string(length) + " of a batch of 1",
              text(bounds) + " for a batch of " + std::to_string(batch));
}

void check_slots(const Arguments& args, std::span<const int64_t> slots, int64_t n_slots) {
  std::vector<int64_t> used;
  for (const int64_t slot : slots)
    if (slot != -1) used.push_back(slot);
  std::sort(used.begin(), used.end());
  const bool outside = !used.empty() && (used.front() < 0 || used.back() >= n_slots);
  if (outside || std::adjacent_find(used.begin(), used.end()) != used.end())
    args.fail("state_indices must be -1 or different slots below " + std::to_string(n_slots), text(slots));
}

}  // namespace

void Arguments::fail(const std::string& rule, const std::string& value) const {
  throw ArgumentError(std::string("[") + op_ + "] " + rule + ", got " + value);
}

void Arguments::fail(const std::string& rule, const Strided& value) const {
  fail(rule, "shape (" + text(value.shape.data(), value.n_dims) + (value.n_dims == 1 ? ",)" : ")"));
}

void Arguments::shape(const char* name, const Strided& value, std::initializer_list<int64_t> wanted) const {
  bool fits = value.n_dims == static_cast<int>(wanted.size());
  for (int i = 0; fits && i < value.n_dims; ++i) {
    const int64_t n = wanted.begin()[i];
    fits = n < 0 || n == value.shape[static_cast<size_t>(i)];
  }
  if (fits) return;
  std::string rule;
  for (const int64_t n : wanted) rule += (rule.empty() ? "" : ", ") + (n < 0 ? std::string("any") : std::to_string(n));
  fail(std::string(name) + " must have shape (" + rule + ")", value);
}

std::vector<Sequence> Arguments::sequences(const Sequences& given, int64_t batch, int64_t length, int64_t channels,
                                           int64_t n, const Strided& initial, const Strided& last) const {
  int64_t n_sequences = batch;
  if (given.cu_seqlens) {
    check_bounds(*this, *given.cu_seqlens, batch, length);
    n_sequences = static_cast<int64_t>(given.cu_seqlens->size()) - 1;
  }
  int64_t n_slots = INT64_MAX;
  const std::pair<const char*, const Strided*> both[] = {{"initial_state", &initial}, {"last_state", &last}};
  for (const auto& [name, state] : both)
    if (state->data != nullptr) {
      const int64_t slots = given.state_indices ? -1 : n_sequences;
      if (state->n_dims == 4)
        shape(name, *state, {slots, (channels + kScanBlock - 1) / kScanBlock, n, kScanBlock});
      else
        shape(name, *state, {slots, channels, n});
      n_slots = std::min(n_slots, state->shape[0]);
    }
  if (given.state_indices) {
    if (static_cast<int64_t>(given.state_indices->size()) != n_sequences)
      fail("state_indices must have shape (" + std::to_string(n_sequences) + ")", text(*given.state_indices));
    check_slots(*this, *given.state_indices, n_slots);
  }
  std::vector<Sequence> all(static_cast<size_t>(n_sequences));
  for (int64_t i = 0; i < n_sequences; ++i) {
    const auto at = static_cast<size_t>(i);
    const int64_t slot = given.state_indices ? (*given.state_indices)[at] : i;
    all[at] = given.cu_seqlens ? Sequence{0, (*given.cu_seqlens)[at], (*given.cu_seqlens)[at + 1], slot}
                               : Sequence{i, 0, length, slot};
  }
  return all;
}

void Arguments::finite(const char* name, const Strided& value) const {
  if (value.data == nullptr) return;
  std::array<int64_t, 4> at{};
  int64_t total = 1;
  for (int i = 0; i < value.n_dims; ++i) total *= value.shape[static_cast<size_t>(i)];
  for (int64_t index = 0; index < total; ++index) {
    int64_t rest = index, offset = 0;
    for (int i = value.n_dims - 1; i >= 0; --i) {
      const auto d = static_cast<size_t>(i);
      at[d] = rest % value.shape[d];
      rest /= value.shape[d];
      offset += at[d] * value.stride[d];
    }
    if (const float x = value.data[offset]; !std::isfinite(x))
      throw NotFinite(std::string("[") + op_ + "] " + name + " must be finite, got " + std::to_string(x) + " at [" +
                      text(at.data(), value.n_dims) + "]");
  }
}

namespace {

bool divides(int64_t part, int64_t whole) { return part >= 1 && whole % part == 0; }

int64_t check_readout(const Arguments& args, const char* name, const Strided& x, const ScanSizes& sizes) {
  if (x.n_dims == 2) {
    if (sizes.has_heads) args.fail(std::string(name) + " [D, N] without time needs A [D, N]", x);
    args.shape(name, x, {sizes.channels, sizes.n_state});
    return 1;
  }
  if (x.n_dims == 3) {
    args.shape(name, x, {sizes.batch, sizes.n_state, sizes.length});
    return 1;
  }
  args.shape(name, x, {sizes.batch, -1, sizes.n_state, sizes.length});
  if (!divides(x.shape[1], sizes.rows))
    args.fail(std::string(name) + " must have a number of groups that divides " + std::to_string(sizes.rows), x);
  return x.shape[1];
}

}  // namespace

ScanSizes check_scan(const Arguments& args, const ScanInputs& in) {
  args.shape("u", in.u, {-1, -1, -1});
  ScanSizes s{in.u.shape[0], in.u.shape[1], in.u.shape[2], 0, 0, 1, in.A.n_dims == 1};
  if (s.channels < 1) args.fail("u must have at least one channel", in.u);
  if (s.has_heads) {
    if (!divides(in.A.shape[0], s.channels))
      args.fail("A [heads] must have a length that divides the " + std::to_string(s.channels) + " channels of u", in.A);
    if (in.B.n_dims != 3 && in.B.n_dims != 4) args.fail("B must have 3 or 4 dimensions where A is [heads]", in.B);
    s.n_state = in.B.shape[static_cast<size_t>(in.B.n_dims) - 2];
    s.rows = in.A.shape[0];
    if (s.n_state < 1) args.fail("B must have at least one state", in.B);
  } else {
    if (in.A.n_dims == 3)
      args.shape("A", in.A, {(s.channels + kScanBlock - 1) / kScanBlock, -1, kScanBlock});
    else
      args.shape("A", in.A, {s.channels, -1});
    s.n_state = in.A.shape[1];
    s.rows = s.channels;
    if (s.n_state < 1) args.fail("A must have at least one state", in.A);
  }
  args.shape("delta", in.delta, {s.batch, s.rows, s.length});
  const int64_t b_groups = check_readout(args, "B", in.B, s), c_groups = check_readout(args, "C", in.C, s);
  if (in.B.n_dims > 2 && in.C.n_dims > 2 && b_groups != c_groups) args.fail("C must have the groups of B", in.C);
  s.groups = std::max(b_groups, c_groups);
  if (in.D.data != nullptr && (in.D.n_dims != 1 || (in.D.shape[0] != s.channels && in.D.shape[0] != s.rows)))
    args.fail("D must have shape [" + std::to_string(s.channels) + "]" +
                  (s.has_heads ? " or [" + std::to_string(s.rows) + "]" : ""),
              in.D);
  if (in.delta_bias.data != nullptr) args.shape("delta_bias", in.delta_bias, {s.rows});
  if (in.z.data != nullptr) args.shape("z", in.z, {s.batch, s.channels, s.length});
  return s;
}

}  // namespace vx
