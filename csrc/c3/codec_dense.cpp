// Reading `dense` tiles. A lookup of 11 bits gives up to six symbols, and the four streams of a panel are decoded side
// by side, so that the latency of one hides behind the others.
#include "c3/codec_dense.h"

#include <algorithm>
#include <cstring>

#include "c3/codec_table.h"
#include "c3/decoded_panels.h"
#include "c3/float_layout.h"

namespace vx {
namespace dense {
namespace {

constexpr int kEntrySymbols = 6;
constexpr int kLookups = 5;  // of 11 bits, from one load of 64 of which 57 or more are new
constexpr int64_t kFastSymbols = (kLookups - 1) * kEntrySymbols + 8;  // what a round may touch of its output
constexpr uint32_t kTableMask = (1u << kMaxLength) - 1;

struct Table {
  uint8_t lengths[kSymbols];
  uint8_t packed[kLengthBytes];      // what it was built from
  uint64_t entries[kTableMask + 1];  // bytes 0-5 symbols, 6 how many of them, 7 their bits
  bool built = false;
};

void unpack_lengths(const uint8_t* packed, uint8_t (&lengths)[kSymbols]) {
  for (int i = 0; i < kSymbols; ++i) lengths[i] = packed[i / 2] >> 4 * (i % 2) & 15;
}

void build(const uint8_t* packed, Table* table) {
  std::memcpy(table->packed, packed, kLengthBytes);
  unpack_lengths(packed, table->lengths);
  uint16_t words[kSymbols];
  code_words(table->lengths, words);
  uint8_t first[kTableMask + 1];
  for (int symbol = 0; symbol < kSymbols; ++symbol)
    if (table->lengths[symbol] != 0)
      for (uint32_t i = words[symbol]; i <= kTableMask; i += 1u << table->lengths[symbol])
        first[i] = static_cast<uint8_t>(symbol);
  for (uint32_t i = 0; i <= kTableMask; ++i) {
    uint64_t entry = 0, bits = 0, n = 0;
    while (n < kEntrySymbols) {
      const uint8_t symbol = first[i >> bits];
      if (bits + table->lengths[symbol] > kMaxLength) break;
      bits += table->lengths[symbol];
      entry |= static_cast<uint64_t>(symbol) << 8 * n++;
    }
    table->entries[i] = entry | n << 48 | bits << 56;
  }
  table->built = true;
}

// Panels of one tile share a code, so a thread builds it once a tile.
const Table& table_of(const uint8_t* packed) {
  thread_local Table table;
  if (!table.built || std::memcmp(table.packed, packed, kLengthBytes) != 0) build(packed, &table);
  return table;
}

// The parts of a tile's prefix.
struct Parts {
  const uint8_t *ends, *plain, *streams, *end;
};

uint64_t plain_bytes(const TileEntry& e, int64_t n_rows) {
  return static_cast<uint64_t>(n_rows) * e.n_cols * (float_layout(e.dtype).item_bytes() - 1);
}

// Bytes in front of the streams.
uint64_t fixed_bytes(const TileEntry& e) {
  return kLengthBytes + e.n_panels() * kPanelEntryBytes + plain_bytes(e, e.n_rows);
}

Parts parts_of(const TileView& tile) {
  const TileEntry& e = *tile.entry;
  const uint8_t* ends = tile.prefix + kLengthBytes;
  return {ends, ends + e.n_panels() * kPanelEntryBytes, tile.prefix + fixed_bytes(e), tile.prefix + e.prefix_bytes};
}

// End of stream i of the tile; stream -1 ends where stream 0 begins.
uint32_t stream_end(const Parts& parts, int64_t i) {
  uint32_t end = 0;
  if (i >= 0) std::memcpy(&end, parts.ends + i * sizeof end, sizeof end);
  return end;
}

struct Stream {
  const uint8_t* bytes;
  uint64_t n_bytes, bit;
  uint8_t *out, *out_end;
};

// The next 57 bits or more; zeros where the tile ends.
uint64_t bits_at(const Stream& s, const uint8_t* end) {
  uint64_t word = 0;
  const uint64_t at = s.bit / 8, available = static_cast<uint64_t>(end - s.bytes);
  if (at < available) std::memcpy(&word, s.bytes + at, std::min<uint64_t>(8, available - at));
  return word >> s.bit % 8;
}

bool is_fast(const Stream& s, const uint8_t* end) {
  return s.out_end - s.out >= kFastSymbols && s.bit / 8 + 8 <= static_cast<uint64_t>(end - s.bytes);
}

// True when the bits that the symbols took are the stream's bytes, and the unused bits of its last byte are zero.
bool decode_streams(const Table& table, Stream (&streams)[kStreams], const uint8_t* end) {
  Stream s[kStreams] = {streams[0], streams[1], streams[2], streams[3]};
  while (is_fast(s[0], end) && is_fast(s[1], end) && is_fast(s[2], end) && is_fast(s[3], end)) {
    uint64_t word[kStreams];
#pragma GCC unroll 4
    for (int q = 0; q < kStreams; ++q) {
      std::memcpy(&word[q], s[q].bytes + s[q].bit / 8, 8);
      word[q] >>= s[q].bit % 8;
    }
#pragma GCC unroll 5
    for (int i = 0; i < kLookups; ++i) {
#pragma GCC unroll 4
      for (int q = 0; q < kStreams; ++q) {
        const uint64_t entry = table.entries[word[q] & kTableMask];
        std::memcpy(s[q].out, &entry, 8);
        s[q].out += entry >> 48 & 255;
        s[q].bit += entry >> 56;
        word[q] >>= entry >> 56;
      }
    }
  }
  bool ends_right = true;
  for (Stream& stream : s) {
    while (stream.out < stream.out_end) {
      const uint8_t symbol = static_cast<uint8_t>(table.entries[bits_at(stream, end) & kTableMask]);
      *stream.out++ = symbol;
      stream.bit += table.lengths[symbol];
    }
    ends_right &= (stream.bit + 7) / 8 == stream.n_bytes;
    if (ends_right && stream.bit % 8 != 0) ends_right = stream.bytes[stream.n_bytes - 1] >> stream.bit % 8 == 0;
  }
  return ends_right;
}

// Writes the panel's symbols, column after column of its stored rows.
bool decode_symbols(const TileView& tile, const Parts& parts, int64_t panel, uint8_t* symbols) {
  const int64_t n_rows = stored_rows(panel, tile.entry->n_rows);
  Stream streams[kStreams];
  for (int q = 0; q < kStreams; ++q) {
    const uint32_t begin = stream_end(parts, panel * kStreams + q - 1), end = stream_end(parts, panel * kStreams + q);
    streams[q] = {parts.streams + begin, end - begin, 0, symbols + first_column(q, tile.entry->n_cols) * n_rows,
                  symbols + first_column(q + 1, tile.entry->n_cols) * n_rows};
  }
  return decode_streams(table_of(tile.prefix), streams, parts.end);
}

template <bool f16>
void join(const uint8_t* symbols, const uint8_t* plain, uint64_t n, uint16_t* out) {
  for (uint64_t i = 0; i < n; ++i) out[i] = join_bytes(symbols[i], plain[i], f16);
}

void join_f32(const uint8_t* symbols, const uint8_t* plain, const uint8_t* low_halves, uint64_t n, uint32_t* out) {
  for (uint64_t i = 0; i < n; ++i) {
    uint16_t low;
    std::memcpy(&low, low_halves + 2 * i, 2);
    out[i] = static_cast<uint32_t>(join_bytes(symbols[i], plain[i], false)) << 16 | low;
  }
}

// The n weights from the i-th of a panel of n_panel stored ones.
void join_weights(Dtype dtype, const uint8_t* symbols, const uint8_t* plain, uint64_t n_panel, uint64_t i, uint64_t n,
                  uint8_t* out) {
  if (dtype == Dtype::f32)
    join_f32(symbols + i, plain + i, plain + n_panel + 2 * i, n, reinterpret_cast<uint32_t*>(out));
  else if (dtype == Dtype::f16)
    join<true>(symbols + i, plain + i, n, reinterpret_cast<uint16_t*>(out));
  else
    join<false>(symbols + i, plain + i, n, reinterpret_cast<uint16_t*>(out));
}

void decode_panel(const TileView& tile, int64_t panel, PanelScratch& scratch) {
  const TileEntry& e = *tile.entry;
  const uint64_t n_rows = stored_rows(panel, e.n_rows), n = n_rows * e.n_cols, n_bytes = decoded_panel_bytes(e);
  if (scratch.size() < n_bytes + n) scratch.resize(n_bytes + n);
  const Parts parts = parts_of(tile);
  uint8_t *out = scratch.data(), *symbols = out + n_bytes;
  const uint8_t* plain = parts.plain + plain_bytes(e, panel * kPanelRows);
  decode_symbols(tile, parts, panel, symbols);
  if (n_rows == kPanelRows) return join_weights(e.dtype, symbols, plain, n, 0, n, out);
  std::memset(out, 0, n_bytes);
  const uint64_t column_bytes = n_bytes / e.n_cols;
  for (uint64_t i = 0; i < n; i += n_rows, out += column_bytes)
    join_weights(e.dtype, symbols, plain, n, i, n_rows, out);
}

void check_entry(const TileEntry& e) {
  if (e.residual_bytes != 0) broken_tile("a dense tile has a residual");
  if (e.prefix_bytes < fixed_bytes(e)) broken_tile("size of a dense tile is wrong");
}

// Decodes every stream once: after that no reader needs to ask whether a stream ends where it should.
void check(const TileView& tile) {
  const TileEntry& e = *tile.entry;
  uint8_t lengths[kSymbols];
  unpack_lengths(tile.prefix, lengths);
  uint32_t kraft = 0;
  for (const uint8_t length : lengths) {
    if (length > kMaxLength) broken_tile("a code word of a dense tile is longer than 11 bits");
    if (length != 0) kraft += 1u << (kMaxLength - length);
  }
  if (kraft != kTableMask + 1) broken_tile("the code of a dense tile is not complete");
  const Parts parts = parts_of(tile);
  const uint64_t available = e.prefix_bytes - fixed_bytes(e);
  const int64_t n_streams = e.n_panels() * kStreams;
  for (int64_t i = 0; i < n_streams; ++i)
    if (stream_end(parts, i) < stream_end(parts, i - 1) || stream_end(parts, i) > available)
      broken_tile("a stream of a dense tile is out of order or range");
  if (stream_end(parts, n_streams - 1) != available) broken_tile("size of a dense tile is wrong");
  std::vector<uint8_t> symbols(panel_weights(e));
  for (int64_t panel = 0; panel < e.n_panels(); ++panel)
    if (!decode_symbols(tile, parts, panel, symbols.data()))
      broken_tile("a stream of a dense tile does not end with its last weight");
}

void decode(const TileView& tile, void* out) { decode_panels(tile, decode_panel, out); }

void open(const TileView& tile, int64_t panel, PanelReader* reader, PanelScratch& scratch) {
  open_decoded(tile, panel, decode_panel, reader, scratch);
}

}  // namespace

void code_words(const uint8_t (&lengths)[kSymbols], uint16_t (&words)[kSymbols]) {
  uint32_t word = 0;
  for (int length = 1; length <= kMaxLength; ++length, word <<= 1)
    for (int symbol = 0; symbol < kSymbols; ++symbol) {
      if (lengths[symbol] != length) continue;
      uint32_t reversed = 0;
      for (int bit = 0; bit < length; ++bit) reversed |= (word >> bit & 1) << (length - 1 - bit);
      words[symbol] = static_cast<uint16_t>(reversed);
      ++word;
    }
}

}  // namespace dense

const TileCodec& dense_codec() {
  static const TileCodec codec{"dense", dense::check_entry, dense::check, dense::decode, dense::open, dense::encode};
  return codec;
}

}  // namespace vx
