// The encoder of `exact`: one pass for the exponent window of a panel, one pass for its planes and escapes.
#include "c3/encode_exact.h"

#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "c3/codec_exact.h"
#include "c3/float_layout.h"

namespace vx {
namespace {

// 8 columns x 64 rows of bit patterns, each column in vector byte order; missing rows and columns are zero weights.
template <class Item>
using Block = Item[kBlockCols][kPanelRows];

template <class Item>
struct Source {
  const Item* weights;
  int64_t row_stride, n_rows, n_cols;

  void block(int64_t row0, int64_t col0, Block<Item>& out) const {
    const int64_t rows = n_rows - row0 < kPanelRows ? n_rows - row0 : kPanelRows;
    const int64_t cols = n_cols - col0 < kBlockCols ? n_cols - col0 : kBlockCols;
    if (rows < kPanelRows || cols < kBlockCols) std::memset(out, 0, sizeof out);
    for (int64_t row = 0; row < rows; ++row) {
      const Item* source = weights + (row0 + row) * row_stride + col0;
      const int at = byte_of_row(static_cast<int>(row));
      for (int64_t col = 0; col < cols; ++col) out[col][at] = source[col];
    }
  }
};

constexpr std::array<uint8_t, kPanelRows> row_of_byte() {
  std::array<uint8_t, kPanelRows> rows{};
  for (int row = 0; row < kPanelRows; ++row) rows[byte_of_row(row)] = static_cast<uint8_t>(row);
  return rows;
}
constexpr std::array<uint8_t, kPanelRows> kRowOfByte = row_of_byte();

uint32_t choose_base(const uint64_t (&histogram)[256]) {
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

template <class T>
void append(std::vector<uint8_t>& bytes, T value) {
  const auto* p = reinterpret_cast<const uint8_t*>(&value);
  bytes.insert(bytes.end(), p, p + sizeof value);
}

struct PanelEscapes {
  std::vector<uint8_t> far, near;
  uint32_t n_far = 0, n_near = 0;
};

// Codes of a column, and 1 for each weight that needs an escape.
template <class Item>
void classify(const Item (&column)[kPanelRows], const FloatLayout& layout, uint32_t base, uint8_t (&codes)[kPanelRows],
              uint8_t (&escaped)[kPanelRows]) {
  const int m_bits = layout.mantissa_bits;
  const Item e_mask = static_cast<Item>((1u << layout.exponent_bits) - 1);
  // What makes a weight with exponent 0 an escape: the mantissa of a subnormal f16, nothing otherwise.
  const Item m_mask = static_cast<Item>(layout.exponent_bits == 5 ? (1u << m_bits) - 1 : 0);
  const Item window = static_cast<Item>(base);
  for (int at = 0; at < kPanelRows; ++at) {
    const Item e = static_cast<Item>(static_cast<Item>(column[at] >> m_bits) & e_mask);
    const Item code = static_cast<Item>(e - window);
    const bool inside = static_cast<Item>(code - 1) < kWindow;
    const bool zero = static_cast<Item>(e | static_cast<Item>(column[at] & m_mask)) == 0;
    codes[at] = static_cast<uint8_t>(inside ? code : 0);
    escaped[at] = static_cast<uint8_t>(!inside & !zero);
  }
}

// The rows of a column that are marked, ascending; returns how many.
int escaped_rows(const uint8_t (&escaped)[kPanelRows], uint8_t (&rows)[kPanelRows]) {
  int n = 0;
  for (int word = 0; word < kPanelRows; word += 8) {
    uint64_t marks;
    std::memcpy(&marks, escaped + word, 8);
    for (; marks != 0; marks &= marks - 1) {
      const auto row = static_cast<uint8_t>(kRowOfByte[word + std::countr_zero(marks) / 8]);
      int at = n++;
      for (; at > 0 && rows[at - 1] > row; --at) rows[at] = rows[at - 1];
      rows[at] = row;
    }
  }
  return n;
}

template <class Item>
void write_planes(const FloatLayout& layout, const Block<Item>& weights, const uint8_t (&codes)[kBlockCols][kPanelRows],
                  uint8_t* prefix, uint8_t* residual) {
  const int sign_shift = layout.exponent_bits + layout.mantissa_bits, r_bits = layout.residual_bits();
  const int planes = layout.byte_planes();
  uint8_t high[kBlockCols][kPanelRows];  // residual bits above the byte planes
  std::memset(prefix + 256, 0, 64);
  for (int col = 0; col < kBlockCols; ++col) {
    uint8_t* nibbles = prefix + (col / 2) * 64;
    uint8_t* top_bits = prefix + 256;
    for (int at = 0; at < kPanelRows; ++at) {
      const Item w = weights[col][at];
      const uint8_t nibble = static_cast<uint8_t>((w >> sign_shift) << 3 | codes[col][at]);
      nibbles[at] = col % 2 == 0 ? nibble : static_cast<uint8_t>(nibbles[at] | nibble << 4);
      top_bits[at] = static_cast<uint8_t>(top_bits[at] | ((w >> r_bits) & 1u) << col);
      high[col][at] = static_cast<uint8_t>((w & ((1u << r_bits) - 1)) >> (8 * planes));
    }
    for (int b = 0; b < planes; ++b)
      for (int at = 0; at < kPanelRows; ++at)
        residual[(col * planes + b) * 64 + at] = static_cast<uint8_t>(weights[col][at] >> (8 * b));
  }
  uint8_t* rest = residual + kBlockCols * planes * 64;
  if (layout.rest_bits() == 1) {
    for (int at = 0; at < kPanelRows; ++at) {
      uint8_t bits = 0;
      for (int col = 0; col < kBlockCols; ++col) bits = static_cast<uint8_t>(bits | high[col][at] << col);
      rest[at] = bits;
    }
    return;
  }
  for (int group = 0; group < 2; ++group)
    for (int j = 0; j < 3; ++j)
      for (int at = 0; at < kPanelRows; ++at)
        rest[(group * 3 + j) * 64 + at] =
            static_cast<uint8_t>(high[4 * group + j][at] | ((high[4 * group + 3][at] >> (2 * j)) & 3) << 6);
}

template <class Item>
void encode(const Source<Item>& source, EncodedTile* out) {
  const FloatLayout layout = float_layout(out->dtype);
  const int m_bits = layout.mantissa_bits;
  const uint32_t e_mask = (1u << layout.exponent_bits) - 1;
  const int64_t panels = (source.n_rows + kPanelRows - 1) / kPanelRows;
  const int64_t blocks = (source.n_cols + kBlockCols - 1) / kBlockCols;
  const uint64_t table = panel_table_bytes(panels), r_block = layout.residual_block_bytes();
  EncodedTile& tile = *out;
  tile.prefix.resize(table + panels * blocks * kPrefixBlockBytes);
  tile.residual.resize(panels * blocks * (r_block + 1) + (panels * blocks & 1));
  std::vector<uint8_t> all_far, all_near;
  Block<Item> weights;
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t row0 = panel * kPanelRows;
    uint64_t histogram[256] = {};
    for (int64_t row = row0; row < row0 + kPanelRows && row < source.n_rows; ++row)
      for (int64_t col = 0; col < source.n_cols; ++col)
        ++histogram[(source.weights[row * source.row_stride + col] >> m_bits) & e_mask];
    const uint32_t base = choose_base(histogram);
    PanelEscapes escapes;
    for (int64_t block = 0; block < blocks; ++block) {
      source.block(row0, block * kBlockCols, weights);
      uint8_t codes[kBlockCols][kPanelRows];
      alignas(8) uint8_t escaped[kBlockCols][kPanelRows];
      for (int col = 0; col < kBlockCols; ++col) classify(weights[col], layout, base, codes[col], escaped[col]);
      const int64_t index = panel * blocks + block;
      write_planes(layout, weights, codes, tile.prefix.data() + table + index * kPrefixBlockBytes,
                   tile.residual.data() + index * r_block);
      uint32_t n_near = 0;
      for (int col = 0; col < kBlockCols; ++col) {
        uint8_t rows[kPanelRows];
        const int n_rows = escaped_rows(escaped[col], rows);
        for (int i = 0; i < n_rows; ++i) {
          const uint32_t e = (weights[col][byte_of_row(rows[i])] >> m_bits) & e_mask;
          const uint32_t position = static_cast<uint32_t>(col * kPanelRows + rows[i]);
          if (e <= base && base - e <= kMaxNearDistance && n_near < kMaxNearPerBlock) {
            append(escapes.near, static_cast<uint16_t>(position | (base - e) << 9));
            ++n_near;
          } else {
            append(escapes.far, static_cast<uint32_t>(block * 512 + position) | e << 24);
            ++escapes.n_far;
          }
        }
      }
      tile.residual[panels * blocks * r_block + index] = static_cast<uint8_t>(n_near);
      escapes.n_near += n_near;
    }
    const PanelHeader header{base, escapes.n_far, escapes.n_near, 0};
    std::memcpy(tile.prefix.data() + panel * sizeof header, &header, sizeof header);
    all_far.insert(all_far.end(), escapes.far.begin(), escapes.far.end());
    all_near.insert(all_near.end(), escapes.near.begin(), escapes.near.end());
  }
  tile.prefix.insert(tile.prefix.end(), all_far.begin(), all_far.end());
  tile.residual.insert(tile.residual.end(), all_near.begin(), all_near.end());
}

template <class Item>
bool encode_if_smaller(const Weights& weights, EncodedTile* tile) {
  const auto* items = reinterpret_cast<const Item*>(weights.data);
  encode(Source<Item>{items, weights.row_stride, weights.n_rows, weights.n_cols}, tile);
  const uint64_t panels = (weights.n_rows + kPanelRows - 1) / kPanelRows;
  return tile->prefix.size() + tile->residual.size() < panels * weights.n_cols * kPanelRows * sizeof(Item);
}

}  // namespace

bool encode_exact(const Weights& weights, EncodedTile* tile) {
  return weights.dtype == Dtype::f32 ? encode_if_smaller<uint32_t>(weights, tile)
                                     : encode_if_smaller<uint16_t>(weights, tile);
}

}  // namespace vx
