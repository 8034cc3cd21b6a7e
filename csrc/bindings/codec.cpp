// Encoding for the packer, decoding for whoever wants to look at a tile.
#include "c3/codec.h"

#include <pybind11/stl.h>

#include <array>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "c3/codec_table.h"
#include "c3/float_layout.h"
#include "common/pool.h"

namespace vx {
namespace {

constexpr int64_t kMaxTileCols = 1 << 18;  // far escapes store a position of 24 bits

Dtype dtype_by_id(int id) {
  if (id < 1 || id > 3)
    throw ArgumentError("[codec] dtype must be 1 (bf16), 2 (f16) or 3 (f32), got " + std::to_string(id));
  return static_cast<Dtype>(id);
}

Codec codec_by_id(int id) {
  if (id < 0 || find_codec(static_cast<uint64_t>(id)) == nullptr)
    throw ArgumentError("[codec] codec must be the id of one, got " + std::to_string(id));
  return static_cast<Codec>(id);
}

py::bytes as_bytes(const std::vector<uint8_t>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

py::list encode_tiles(Pool& pool, const py::array& slab, int64_t rows, int64_t cols, int dtype_id, int codec_id,
                      const std::vector<std::array<int64_t, 4>>& tiles) {
  const Dtype dtype = dtype_by_id(dtype_id);
  const Codec codec = codec_by_id(codec_id);
  const int64_t item = float_layout(dtype).item_bytes();
  const auto bytes = checked<uint8_t>(slab, 1, "encode_tiles", "slab");
  if (rows < 1 || cols < 1 || rows > (int64_t{1} << 40) / cols || bytes.size() < rows * cols * item)
    throw ArgumentError("[encode_tiles] slab must hold rows x cols weights, got " + std::to_string(bytes.size()) +
                        " bytes for " + std::to_string(rows) + " x " + std::to_string(cols));
  if (reinterpret_cast<uintptr_t>(bytes.data()) % item != 0)
    throw ArgumentError("[encode_tiles] slab must be aligned to its items");
  for (const auto& [row0, n_rows, col0, n_cols] : tiles)
    if (row0 < 0 || n_rows < 1 || row0 > rows - n_rows || col0 < 0 || n_cols < 1 || col0 > cols - n_cols ||
        n_cols > kMaxTileCols)
      throw ArgumentError("[encode_tiles] a tile must lie inside the slab and have at most 262144 columns");
  std::vector<EncodedTile> encoded(tiles.size());
  {
    const py::gil_scoped_release release;
    pool.threads.for_each(static_cast<int64_t>(tiles.size()), [&](int64_t i, int) {
      const auto& [row0, n_rows, col0, n_cols] = tiles[i];
      encoded[i] = encode_tile({bytes.data() + (row0 * cols + col0) * item, cols, n_rows, n_cols, dtype}, codec);
    });
  }
  py::list out;
  for (const EncodedTile& tile : encoded)
    out.append(py::make_tuple(as_bytes(tile.prefix), as_bytes(tile.residual), static_cast<int>(tile.codec),
                              static_cast<int>(tile.dtype)));
  return out;
}

py::array decode(int codec_id, int dtype_id, int64_t n_rows, int64_t n_cols, const py::bytes& prefix,
                 const py::bytes& residual) {
  const auto p = static_cast<std::string_view>(prefix), r = static_cast<std::string_view>(residual);
  if (n_rows < 1 || n_cols < 1 || n_cols > kMaxTileCols || n_rows > (int64_t{1} << 30) / n_cols || p.size() >> 32 ||
      r.size() >> 32)
    throw ArgumentError("[decode_tile] the shape must be positive and of at most 2^30 weights");
  TileEntry entry{};
  entry.prefix_bytes = static_cast<uint32_t>(p.size());
  entry.residual_bytes = static_cast<uint32_t>(r.size());
  entry.codec = codec_by_id(codec_id);
  entry.dtype = entry.source_dtype = dtype_by_id(dtype_id);
  entry.n_rows = static_cast<uint32_t>(n_rows);
  entry.n_cols = static_cast<uint32_t>(n_cols);
  const TileView view{&entry, reinterpret_cast<const uint8_t*>(p.data()), reinterpret_cast<const uint8_t*>(r.data())};
  try {
    check_tile(view);
  } catch (const std::runtime_error& e) {
    throw ArgumentError(std::string("[decode_tile] ") + e.what());
  }
  const std::vector<py::ssize_t> shape{n_rows, n_cols};
  py::array out =
      entry.dtype == Dtype::f32 ? py::array(py::array_t<uint32_t>(shape)) : py::array(py::array_t<uint16_t>(shape));
  void* to = out.mutable_data();
  const py::gil_scoped_release release;
  decode_tile(view, to);
  return out;
}

}  // namespace

void bind_codec(py::module_& m) {
  m.def(
      "encode_tiles", encode_tiles, py::arg("pool"), py::arg("slab"), py::arg("rows"), py::arg("cols"),
      py::arg("dtype"), py::arg("codec"), py::arg("tiles"),
      "Encodes tiles (row0, n_rows, col0, n_cols) of a row-major slab of weights; [(prefix, residual, codec, dtype)].");
  m.def("decode_tile", decode, py::arg("codec"), py::arg("dtype"), py::arg("n_rows"), py::arg("n_cols"),
        py::arg("prefix"), py::arg("residual"),
        "Bit patterns [n_rows, n_cols] of a tile: uint16 (bf16, f16) or uint32.");
}

}  // namespace vx
