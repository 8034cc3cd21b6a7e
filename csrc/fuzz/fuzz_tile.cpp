// Any bytes as a tile: whatever check_tile accepts is decoded and multiplied inside its ranges, to the same bits at
// every SIMD level.
#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>

#include "c3/codec.h"
#include "common/cpu_features.h"
#include "fuzz/seeds.h"
#include "fuzz/target.h"
#include "ops/tile_kernels.h"

namespace {

using namespace vx;
using namespace vx::fuzz;

constexpr int64_t kMaxWeights = 1 << 18;
constexpr int64_t kRows = 3;  // activation rows

struct Free {
  void operator()(uint8_t* p) const { std::free(p); }
};
using Range = std::unique_ptr<uint8_t, Free>;

// Aligned as the pager's memory is, and not a byte longer than the range.
Range copy_range(const uint8_t* data, size_t n) {
  void* memory = nullptr;
  check(posix_memalign(&memory, kAlignment, std::max<size_t>(n, 1)) == 0, "memory");
  if (n > 0) std::memcpy(memory, data, n);
  return Range(static_cast<uint8_t*>(memory));
}

bool same(const std::vector<float>& a, const std::vector<float>& b, bool any_nan) {
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(&a[i], &b[i], 4) != 0 && !(any_nan && std::isnan(a[i]) && std::isnan(b[i]))) return false;
  return true;
}

// A view without its residual is read as a low-precision copy.
PanelReader open_view(const TileView& tile, int64_t panel, PanelScratch& scratch) {
  if (tile.residual == nullptr) return open_prefix_panel(tile, panel, scratch);
  return open_panel(tile, panel, scratch);
}

std::vector<float> decode_panel(const TileView& tile, int64_t panel, Simd level) {
  const int64_t n_cols = tile.entry->n_cols;
  PanelScratch scratch;
  PanelReader reader = open_view(tile, panel, scratch);
  std::vector<float> out;
  for (int64_t col = 0; col < n_cols; col += kChunkCols) {
    const int64_t width = std::min(kChunkCols, n_cols - col);
    std::vector<float> chunk(kChunkCols * kPanelRows);
    tile_kernels(level).decode(reader, width, chunk.data());
    out.insert(out.end(), chunk.begin(), chunk.begin() + width * kPanelRows);
  }
  return out;
}

std::vector<float> multiply_panel(const TileView& tile, int64_t panel, Simd level, const std::vector<float>& x,
                                  int64_t n_rows) {
  const int64_t n_cols = tile.entry->n_cols;
  PanelScratch panel_scratch;
  PanelReader reader = open_view(tile, panel, panel_scratch);
  std::vector<float> acc(n_rows * kPanelRows), scratch(kScratchFloats);
  const Codec codec = tile.entry->codec;
  if (codec == Codec::int8 || codec == Codec::int4) {
    IntRowsBuffer rows;
    rows.prepare(codec == Codec::int8 ? 8 : 4, x.data(), n_rows, n_cols);
    tile_kernels(level).multiply_integer(reader, n_cols, rows.rows(), n_rows, acc.data());
  } else {
    tile_kernels(level).multiply(reader, n_cols, x.data(), n_cols, n_rows, acc.data(), scratch.data());
  }
  return acc;
}

// The weights that every level decodes.
std::vector<float> use_panel(const TileView& tile, int64_t panel, const std::vector<float>& x) {
  std::vector<float> weights = decode_panel(tile, panel, Simd::scalar);
  for (const int64_t n_rows : {int64_t{1}, kRows}) {
    const std::vector<float> products = multiply_panel(tile, panel, Simd::scalar, x, n_rows);
    for (const Simd level : simd_available())
      // Which of two NaNs an addition passes on is the processor's choice.
      check(same(products, multiply_panel(tile, panel, level, x, n_rows), true),
            "every level multiplies to the same bits");
  }
  for (const Simd level : simd_available())
    check(same(weights, decode_panel(tile, panel, level), false), "every level decodes to the same bits");
  return weights;
}

void use(const TileView& tile) {
  const TileEntry& e = *tile.entry;
  const int64_t n = int64_t{e.n_rows} * e.n_cols;
  // Exactly what a caller gives: a write behind it is seen.
  std::vector<uint8_t> bits(static_cast<size_t>(n * float_layout(e.dtype).item_bytes()));
  decode_tile(tile, bits.data());
  std::vector<float> x(static_cast<size_t>(kRows * e.n_cols));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<int>(i % 17) - 8) / 4.0f;
  for (int64_t panel = 0; panel < e.n_panels(); ++panel) {
    const std::vector<float> weights = use_panel(tile, panel, x);
    if (e.codec == Codec::exact) use_panel({&e, tile.prefix, nullptr}, panel, x);
    if (e.dtype != Dtype::f32) continue;
    for (int64_t row = panel * kPanelRows; row < std::min<int64_t>(e.n_rows, (panel + 1) * kPanelRows); ++row)
      for (int64_t col = 0; col < e.n_cols; ++col)
        check(std::memcmp(&bits[static_cast<size_t>((row * e.n_cols + col) * 4)],
                          &weights[static_cast<size_t>(col * kPanelRows + row % kPanelRows)], 4) == 0,
              "the kernels decode what decode_tile decodes");
  }
}

}  // namespace

// codec, dtype, n_rows, n_cols, bytes of the prefix, prefix, residual.
std::vector<Input> vx::fuzz::seeds() {
  std::mt19937_64 random(9);
  std::vector<Input> out;
  const std::pair<uint32_t, uint32_t> shapes[] = {{1, 1}, {64, 8}, {70, 41}, {37, 72}, {130, 33}};
  for (const Codec codec : known_codecs())
    for (const Dtype dtype : {Dtype::bf16, Dtype::f16, Dtype::f32})
      for (const Kind kind : {Kind::normal, Kind::outliers, Kind::zeros, Kind::patterns})
        for (const auto& [n_rows, n_cols] : shapes) {
          const SeedTile tile = seed_tile(kind, dtype, codec, n_rows, n_cols, random);
          if (tile.bytes.codec != codec) continue;  // stored raw
          Input input;
          put(&input, static_cast<uint8_t>(tile.bytes.codec));
          put(&input, static_cast<uint8_t>(tile.bytes.dtype));
          put(&input, static_cast<uint16_t>(n_rows));
          put(&input, static_cast<uint16_t>(n_cols));
          put(&input, static_cast<uint32_t>(tile.bytes.prefix.size()));
          input.insert(input.end(), tile.bytes.prefix.begin(), tile.bytes.prefix.end());
          input.insert(input.end(), tile.bytes.residual.begin(), tile.bytes.residual.end());
          out.push_back(std::move(input));
        }
  return out;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Reader in(data, size);
  TileEntry entry{};
  entry.codec = static_cast<Codec>(in.take<uint8_t>());
  entry.dtype = entry.source_dtype = static_cast<Dtype>(in.take<uint8_t>() & 3);
  entry.n_rows = in.take<uint16_t>();
  entry.n_cols = in.take<uint16_t>();
  size_t prefix_bytes = in.take<uint32_t>();
  prefix_bytes = std::min(prefix_bytes, in.left());
  entry.prefix_bytes = static_cast<uint32_t>(prefix_bytes);
  entry.residual_bytes = static_cast<uint32_t>(in.left() - prefix_bytes);
  // The index parser lets nothing else through.
  if (entry.n_rows == 0 || entry.n_cols == 0 || int64_t{entry.n_rows} * entry.n_cols > kMaxWeights) return 0;
  const Range prefix = copy_range(in.data(), entry.prefix_bytes);
  const Range residual = copy_range(in.data() + prefix_bytes, entry.residual_bytes);
  const TileView tile{&entry, prefix.get(), entry.residual_bytes > 0 ? residual.get() : nullptr};
  try {
    check_tile(tile);
  } catch (const std::runtime_error&) {
    return 0;
  }
  use(tile);
  return 0;
}
