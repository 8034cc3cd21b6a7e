// Encoding for the packer, decoding for whoever wants to look at a tile.
#include "c3/codec.h"

#include <pybind11/stl.h>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "c3/codec_table.h"
#include "c3/encoded_group.h"
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

py::bytes as_bytes(const std::vector<uint8_t>& range, uint32_t n_bytes) {
  return {reinterpret_cast<const char*>(range.data()), n_bytes};
}

// A slab and rectangles of it, checked.
Weights checked_slab(const py::array& slab, int64_t rows, int64_t cols, int dtype_id,
                     const std::vector<EncodedGroup::Rectangle>& tiles) {
  const Dtype dtype = dtype_by_id(dtype_id);
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
  return {bytes.data(), cols, rows, cols, dtype};
}

void encode_group(EncodedGroup& group, Pool& pool, const py::array& slab, int64_t rows, int64_t cols, int dtype_id,
                  int codec_id, const std::vector<EncodedGroup::Rectangle>& tiles) {
  const Codec codec = codec_by_id(codec_id);
  const Weights weights = checked_slab(slab, rows, cols, dtype_id, tiles);
  const py::gil_scoped_release release;
  group.encode(pool.threads, weights, codec, tiles);
}

py::list tiles_of(const EncodedGroup& group) {
  py::list out;
  for (int64_t i = 0; i < group.size(); ++i) {
    const EncodedGroup::Tile& t = group.tile(i);
    out.append(py::make_tuple(t.prefix_bytes, t.residual_bytes, t.prefix_crc, t.residual_crc,
                              static_cast<int>(t.encoded.codec), static_cast<int>(t.encoded.dtype)));
  }
  return out;
}

py::list parts_of(const py::object& self) {
  const auto& group = self.cast<const EncodedGroup&>();
  py::list out;
  const auto add = [&](const std::vector<uint8_t>& range) {
    py::array_t<uint8_t> view(static_cast<py::ssize_t>(range.size()), range.data(), self);
    view.attr("flags").attr("writeable") = false;
    out.append(view.attr("data"));
  };
  for (int64_t i = 0; i < group.size(); ++i) add(group.tile(i).encoded.prefix);
  for (int64_t i = 0; i < group.size(); ++i) add(group.tile(i).encoded.residual);
  return out;
}

py::list encode_tiles(Pool& pool, const py::array& slab, int64_t rows, int64_t cols, int dtype_id, int codec_id,
                      const std::vector<EncodedGroup::Rectangle>& tiles) {
  EncodedGroup group;
  encode_group(group, pool, slab, rows, cols, dtype_id, codec_id, tiles);
  py::list out;
  for (int64_t i = 0; i < group.size(); ++i) {
    const EncodedGroup::Tile& t = group.tile(i);
    out.append(py::make_tuple(as_bytes(t.encoded.prefix, t.prefix_bytes),
                              as_bytes(t.encoded.residual, t.residual_bytes), static_cast<int>(t.encoded.codec),
                              static_cast<int>(t.encoded.dtype)));
  }
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
  py::class_<EncodedGroup>(m, "EncodedGroup", "Encoded tiles as a shard stores them, in memory that is used again.")
      .def(py::init<>())
      .def("encode", encode_group, py::arg("pool"), py::arg("slab"), py::arg("rows"), py::arg("cols"), py::arg("dtype"),
           py::arg("codec"), py::arg("tiles"),
           "Replaces the group by tiles of a slab, as encode_tiles; ends the life of what parts() gave before.")
      .def("tiles", tiles_of, "[(prefix bytes, residual bytes, prefix crc32c, residual crc32c, codec, dtype)].")
      .def("parts", parts_of, "Views of all prefixes, then all residuals, each padded with zeros to the alignment.")
      .def("extend_crc", &EncodedGroup::extend_crc, py::arg("crc"),
           "The crc32c of what was written before followed by the parts.");
  m.def("decode_tile", decode, py::arg("codec"), py::arg("dtype"), py::arg("n_rows"), py::arg("n_cols"),
        py::arg("prefix"), py::arg("residual"),
        "Bit patterns [n_rows, n_cols] of a tile: uint16 (bf16, f16) or uint32.");
}

}  // namespace vx
