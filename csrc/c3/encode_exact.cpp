// The encoder of `exact`: one pass for the exponent window of a panel, one pass for its planes and escapes.
#include "c3/encode_exact.h"

#include <array>
#include <bit>
#include <cstring>

#include "c3/codec_exact.h"
#include "c3/exact_bf16_blocks.h"
#include "c3/exact_item_blocks.h"
#include "c3/float_layout.h"

namespace vx {
namespace {

uint32_t choose_base(const std::array<uint32_t, 256>& histogram) {
  uint64_t covered = 0;
  for (int e = 1; e <= kWindow; ++e) covered += histogram[e];
  uint64_t best = covered;
  uint32_t base = 0;
  for (uint32_t b = 1; b + kWindow <= 255; ++b) {
    covered += histogram[b + kWindow];
    covered -= histogram[b];
    if (covered > best) {
      best = covered;
      base = b;
    }
  }
  return base;
}

// The rows of a column that are marked, ascending; returns how many.
int escaped_rows(const uint8_t (&escaped)[kPanelRows], uint8_t (&rows)[kPanelRows]) {
  int n = 0;
  for (int word = 0; word < kPanelRows; word += 8) {
    uint64_t marks;
    std::memcpy(&marks, escaped + word, 8);
    for (; marks != 0; marks &= marks - 1) {
      const auto row = static_cast<uint8_t>(row_of_byte(word + std::countr_zero(marks) / 8));
      int at = n++;
      for (; at > 0 && rows[at - 1] > row; --at) rows[at] = rows[at - 1];
      rows[at] = row;
    }
  }
  return n;
}

struct Escapes {
  std::vector<uint32_t> far;
  std::vector<uint16_t> near;
};

// Appends the escapes of a block whose weights are marked with 1; returns how many are near.
template <class Blocks>
uint8_t add_escapes(const Blocks& blocks, const uint8_t (&escaped)[kBlockCols][kPanelRows], uint32_t base,
                    int64_t block, Escapes& escapes) {
  int n_near = 0;
  for (int col = 0; col < kBlockCols; ++col) {
    uint8_t rows[kPanelRows];
    const int n_rows = escaped_rows(escaped[col], rows);
    for (int i = 0; i < n_rows; ++i) {
      const uint32_t e = blocks.exponent(col, byte_of_row(rows[i]));
      const uint32_t position = static_cast<uint32_t>(col * kPanelRows + rows[i]);
      if (e <= base && base - e <= kMaxNearDistance && n_near < kMaxNearPerBlock) {
        escapes.near.push_back(static_cast<uint16_t>(position | (base - e) << 9));
        ++n_near;
      } else {
        escapes.far.push_back(static_cast<uint32_t>(block * 512 + position) | e << 24);
      }
    }
  }
  return static_cast<uint8_t>(n_near);
}

template <class Entry>
void append(const std::vector<Entry>& entries, std::vector<uint8_t>& bytes) {
  const auto* p = reinterpret_cast<const uint8_t*>(entries.data());
  bytes.insert(bytes.end(), p, p + entries.size() * sizeof(Entry));
}

template <class Blocks>
bool encode(const Weights& weights, Blocks&& source, EncodedTile* tile) {
  const FloatLayout layout = float_layout(weights.dtype);
  const int64_t panels = (weights.n_rows + kPanelRows - 1) / kPanelRows;
  const int64_t blocks = (weights.n_cols + kBlockCols - 1) / kBlockCols;
  const uint64_t table = panel_table_bytes(panels), r_block = layout.residual_block_bytes();
  std::vector<uint8_t>&prefix = tile->prefix, &residual = tile->residual;
  prefix.resize(table + panels * blocks * kPrefixBlockBytes);
  residual.resize(panels * blocks * (r_block + 1) + (panels * blocks & 1));
  // No block writes the padding after the table and the one after the counts.
  std::memset(prefix.data(), 0, table);
  residual.back() = 0;
  Escapes escapes;
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t row0 = panel * kPanelRows;
    const uint32_t base = choose_base(source.histogram(row0));
    const size_t n_far = escapes.far.size(), n_near = escapes.near.size();
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t index = panel * blocks + block;
      alignas(8) uint8_t escaped[kBlockCols][kPanelRows];
      source.write(row0, block * kBlockCols, base, prefix.data() + table + index * kPrefixBlockBytes,
                   residual.data() + index * r_block, escaped);
      residual[panels * blocks * r_block + index] = add_escapes(source, escaped, base, block, escapes);
    }
    const PanelHeader header{base, static_cast<uint32_t>(escapes.far.size() - n_far),
                             static_cast<uint32_t>(escapes.near.size() - n_near), 0};
    std::memcpy(prefix.data() + panel * sizeof header, &header, sizeof header);
  }
  append(escapes.far, prefix);
  append(escapes.near, residual);
  return prefix.size() + residual.size() <
         static_cast<uint64_t>(panels) * weights.n_cols * kPanelRows * layout.item_bytes();
}

template <class Item>
bool encode_items(const Weights& weights, EncodedTile* tile) {
  const auto* items = reinterpret_cast<const Item*>(weights.data);
  return encode(weights,
                ExactItemBlocks<Item>{
                    {items, weights.row_stride, weights.n_rows, weights.n_cols}, float_layout(weights.dtype), {}},
                tile);
}

}  // namespace

bool encode_exact(const Weights& weights, EncodedTile* tile) {
  if (weights.dtype == Dtype::bf16) return encode(weights, ExactBf16Blocks{weights, {}}, tile);
  if (weights.dtype == Dtype::f16) return encode_items<uint16_t>(weights, tile);
  return encode_items<uint32_t>(weights, tile);
}

}  // namespace vx
