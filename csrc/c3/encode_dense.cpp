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

struct Split {
  std::vector<uint8_t> symbols, plain;  // panel after panel, of the rows that the tile has
};

Split split(const Weights& weights) {
  const std::vector<uint8_t> raw = raw_panels(weights);
  const int item = float_layout(weights.dtype).item_bytes();
  const bool f16 = weights.dtype == Dtype::f16;
  const int64_t n = weights.n_rows * weights.n_cols;
  Split parts;
  parts.symbols.resize(n);
  parts.plain.resize(n * (item - 1));
  uint8_t *symbols = parts.symbols.data(), *plain = parts.plain.data();
  const uint8_t* column = raw.data();
  for (int64_t panel = 0; panel * kPanelRows < weights.n_rows; ++panel) {
    const int64_t rows = stored_rows(panel, weights.n_rows);
    uint8_t* low_halves = plain + rows * weights.n_cols;
    for (int64_t col = 0; col < weights.n_cols; ++col, column += kPanelRows * item)
      for (int64_t row = 0; row < rows; ++row) {
        const uint8_t* weight = column + row * item;
        uint16_t upper;
        std::memcpy(&upper, weight + item - 2, 2);
        *symbols++ = coded_byte(upper, f16);
        *plain++ = plain_byte(upper, f16);
        if (item == 4) {
          std::memcpy(low_halves, weight, 2);
          low_halves += 2;
        }
      }
    if (item == 4) plain = low_halves;
  }
  return parts;
}

void append_codes(const uint8_t* symbols, uint64_t n, const uint8_t (&lengths)[kSymbols],
                  const uint16_t (&words)[kSymbols], std::vector<uint8_t>* out) {
  uint64_t bits = 0;
  int n_bits = 0;
  for (uint64_t i = 0; i < n; ++i) {
    bits |= static_cast<uint64_t>(words[symbols[i]]) << n_bits;
    n_bits += lengths[symbols[i]];
    for (; n_bits >= 8; n_bits -= 8, bits >>= 8) out->push_back(static_cast<uint8_t>(bits));
  }
  if (n_bits > 0) out->push_back(static_cast<uint8_t>(bits));
}

}  // namespace

bool encode(const Weights& weights, EncodedTile* tile) {
  const Split parts = split(weights);
  Counts counts{};
  for (const uint8_t symbol : parts.symbols) ++counts[symbol];
  uint8_t lengths[kSymbols];
  uint16_t words[kSymbols] = {};
  choose_lengths(counts, lengths);
  code_words(lengths, words);

  std::vector<uint32_t> ends;
  std::vector<uint8_t> streams;
  const int64_t panels = (weights.n_rows + kPanelRows - 1) / kPanelRows;
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t rows = stored_rows(panel, weights.n_rows);
    const uint8_t* symbols = parts.symbols.data() + panel * kPanelRows * weights.n_cols;
    for (int q = 0; q < kStreams; ++q) {
      const int64_t begin = first_column(q, weights.n_cols), end = first_column(q + 1, weights.n_cols);
      append_codes(symbols + begin * rows, (end - begin) * rows, lengths, words, &streams);
      ends.push_back(static_cast<uint32_t>(streams.size()));
    }
  }

  std::vector<uint8_t>& out = tile->prefix;
  out.clear();
  for (int i = 0; i < kSymbols; i += 2) out.push_back(static_cast<uint8_t>(lengths[i] | lengths[i + 1] << 4));
  const auto* table = reinterpret_cast<const uint8_t*>(ends.data());
  out.insert(out.end(), table, table + ends.size() * sizeof(uint32_t));
  out.insert(out.end(), parts.plain.begin(), parts.plain.end());
  out.insert(out.end(), streams.begin(), streams.end());
  return out.size() <
         static_cast<uint64_t>(panels) * kPanelRows * weights.n_cols * float_layout(weights.dtype).item_bytes();
}

}  // namespace vx::dense
