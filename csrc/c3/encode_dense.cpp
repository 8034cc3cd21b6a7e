// Writing `dense` tiles.
#include <algorithm>
#include <array>
#include <cstring>

#include "c3/codec_dense.h"
#include "c3/decoded_panels.h"
#include "c3/float_layout.h"

namespace vx::dense {
namespace {

using Counts = std::array<uint64_t, kSymbols>;

// A symbol or a package of them; how often each symbol is in it.
struct Coin {
  uint64_t weight;
  std::array<uint8_t, kSymbols> uses;
};

// Package-merge (Larmore and Hirschberg, 1990): the lengths of at most kMaxLength that cost fewest bits.
void choose_lengths(Counts counts, uint8_t (&lengths)[kSymbols]) {
  std::vector<int> used;
  for (int i = 0; i < kSymbols; ++i)
    if (counts[i] != 0) used.push_back(i);
  if (used.size() == 1) used.push_back(used[0] ^ 1);  // so that the code is complete
  std::stable_sort(used.begin(), used.end(), [&](int a, int b) { return counts[a] < counts[b]; });
  std::vector<Coin> symbols(used.size());
  for (size_t i = 0; i < used.size(); ++i) {
    symbols[i].weight = counts[used[i]];
    symbols[i].uses[used[i]] = 1;
  }
  std::vector<Coin> row = symbols;
  for (int level = 1; level < kMaxLength; ++level) {
    std::vector<Coin> packages(row.size() / 2), merged;
    for (size_t i = 0; i < packages.size(); ++i) {
      packages[i].weight = row[2 * i].weight + row[2 * i + 1].weight;
      for (int k = 0; k < kSymbols; ++k) packages[i].uses[k] = row[2 * i].uses[k] + row[2 * i + 1].uses[k];
    }
    // std::merge takes the first range's on ties: a symbol before a package.
    std::merge(symbols.begin(), symbols.end(), packages.begin(), packages.end(), std::back_inserter(merged),
               [](const Coin& a, const Coin& b) { return a.weight < b.weight; });
    row = std::move(merged);
  }
  std::fill(std::begin(lengths), std::end(lengths), uint8_t{0});
  for (size_t i = 0; i < 2 * (used.size() - 1); ++i)
    for (int k = 0; k < kSymbols; ++k) lengths[k] += row[i].uses[k];
}

// Splits n weights of a column; returns the end of the low halves, which only fp32 has.
template <class Item>
uint8_t* split_column(const Item* weights, int64_t n, bool f16, uint8_t* symbols, uint8_t* plain, uint8_t* low_halves) {
  for (int64_t i = 0; i < n; ++i) {
    const auto upper = static_cast<uint16_t>(weights[i] >> 8 * (sizeof(Item) - 2));
    symbols[i] = coded_byte(upper, f16);
    plain[i] = plain_byte(upper, f16);
    if constexpr (sizeof(Item) == 4) {
      const auto low = static_cast<uint16_t>(weights[i]);
      std::memcpy(low_halves, &low, sizeof low);
      low_halves += sizeof low;
    }
  }
  return low_halves;
}

// Writes the symbols and the other bytes of the rows that the tile has, panel after panel.
template <class Item>
void split(const Weights& weights, uint8_t* symbols, uint8_t* plain) {
  Weights panel = weights;
  for (int64_t row0 = 0; row0 < weights.n_rows; row0 += kPanelRows) {
    panel.data = weights.data + row0 * weights.row_stride * sizeof(Item);
    panel.n_rows = std::min(kPanelRows, weights.n_rows - row0);
    const std::vector<uint8_t> raw = raw_panels(panel);
    const auto* column = reinterpret_cast<const Item*>(raw.data());
    const int64_t n = panel.n_rows * weights.n_cols;
    uint8_t* low_halves = sizeof(Item) == 4 ? plain + n : nullptr;
    for (int64_t at = 0; at < n; at += panel.n_rows, column += kPanelRows)
      low_halves =
          split_column(column, panel.n_rows, weights.dtype == Dtype::f16, symbols + at, plain + at, low_halves);
    symbols += n;
    plain += n * (sizeof(Item) - 1);
  }
}

Counts count(const std::vector<uint8_t>& symbols) {
  // Neighbours are often equal: in tables of their own they need not wait for each other.
  uint32_t counts[8][kSymbols] = {};
  size_t i = 0;
  for (; i + 8 <= symbols.size(); i += 8)
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) ++counts[k][symbols[i + k]];
  for (; i < symbols.size(); ++i) ++counts[0][symbols[i]];
  Counts sums{};
  for (const auto& table : counts)
    for (int symbol = 0; symbol < kSymbols; ++symbol) sums[symbol] += table[symbol];
  return sums;
}

void append_codes(const uint8_t* symbols, uint64_t n, const uint8_t (&lengths)[kSymbols],
                  const uint16_t (&words)[kSymbols], std::vector<uint8_t>* out) {
  const size_t begin = out->size();
  out->resize(begin + n * kMaxLength / 8 + 9);  // a word of eight bytes is written wherever the last bit goes
  uint8_t* to = out->data() + begin;
  uint64_t bits = 0;
  int n_bits = 0;
  for (uint64_t i = 0; i < n; ++i) {
    bits |= static_cast<uint64_t>(words[symbols[i]]) << n_bits;
    n_bits += lengths[symbols[i]];
    if (n_bits >= 32) {
      std::memcpy(to, &bits, 4);
      to += 4;
      bits >>= 32;
      n_bits -= 32;
    }
  }
  std::memcpy(to, &bits, sizeof bits);
  out->resize(to - out->data() + (n_bits + 7) / 8);
}

}  // namespace

bool encode(const Weights& weights, EncodedTile* tile) {
  const int item = float_layout(weights.dtype).item_bytes();
  const int64_t n = weights.n_rows * weights.n_cols, panels = (weights.n_rows + kPanelRows - 1) / kPanelRows;
  const int64_t plain_start = kLengthBytes + panels * kPanelEntryBytes;
  std::vector<uint8_t>& out = tile->prefix;
  out.resize(plain_start + n * (item - 1));
  std::vector<uint8_t> symbols(n);
  if (item == 4)
    split<uint32_t>(weights, symbols.data(), out.data() + plain_start);
  else
    split<uint16_t>(weights, symbols.data(), out.data() + plain_start);

  uint8_t lengths[kSymbols];
  uint16_t words[kSymbols] = {};
  choose_lengths(count(symbols), lengths);
  code_words(lengths, words);
  for (int i = 0; i < kSymbols; i += 2) out[i / 2] = static_cast<uint8_t>(lengths[i] | lengths[i + 1] << 4);
  const size_t streams_start = out.size();
  const uint8_t* next = symbols.data();
  for (int64_t stream = 0; stream < panels * kStreams; ++stream) {
    const int64_t rows = stored_rows(stream / kStreams, weights.n_rows), q = stream % kStreams;
    const int64_t n_stream = (first_column(q + 1, weights.n_cols) - first_column(q, weights.n_cols)) * rows;
    append_codes(next, n_stream, lengths, words, &out);
    next += n_stream;
    const auto end = static_cast<uint32_t>(out.size() - streams_start);
    std::memcpy(out.data() + kLengthBytes + stream * sizeof end, &end, sizeof end);
  }
  return out.size() < static_cast<size_t>(panels * kPanelRows * weights.n_cols * item);
}

}  // namespace vx::dense
