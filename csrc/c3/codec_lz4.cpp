// `lz4`: every panel as one block of the public LZ4 block format, for tiles with real redundancy.
#include <algorithm>
#include <cstring>

#include "c3/codec_table.h"
#include "c3/decoded_panels.h"

namespace vx {
namespace {

constexpr uint64_t kMinMatch = 4;
constexpr uint64_t kLastLiterals = 5;  // a match ends before them
constexpr uint64_t kMatchLimit = 12;   // a match begins at least this far from the end
constexpr uint64_t kMaxOffset = 65535;
constexpr int kHashBits = 14;

uint32_t panel_end(const TileView& tile, int64_t panel) {
  uint32_t end = 0;
  if (panel >= 0) std::memcpy(&end, tile.prefix + panel * sizeof end, sizeof end);
  return end;
}

uint64_t table_bytes(const TileEntry& e) { return e.n_panels() * sizeof(uint32_t); }

// Bytes of a block, taken one at a time or in runs, never past its end.
struct Input {
  const uint8_t *next, *end;
  uint64_t left() const { return static_cast<uint64_t>(end - next); }

  // A length whose nibble is 15 goes on in bytes until one is not 255.
  bool extend(uint64_t* length) {
    if (*length != 15) return true;
    uint8_t byte;
    do {
      if (next == end) return false;
      byte = *next++;
      *length += byte;
    } while (byte == 255);
    return true;
  }
};

// True when the block decodes to exactly n_out bytes; writes them where out is not null.
bool decode_block(const uint8_t* block, uint64_t n_block, uint8_t* out, uint64_t n_out) {
  Input in{block, block + n_block};
  uint64_t done = 0;
  while (in.left() > 0) {
    const uint8_t token = *in.next++;
    uint64_t literals = token >> 4;
    if (!in.extend(&literals) || literals > in.left() || literals > n_out - done) return false;
    if (out != nullptr) std::memcpy(out + done, in.next, literals);
    in.next += literals;
    done += literals;
    if (in.left() == 0) return done == n_out && (token & 15) == 0;  // the last sequence has no match
    if (in.left() < 2) return false;
    const uint64_t offset = in.next[0] | in.next[1] << 8;
    in.next += 2;
    uint64_t match = token & 15;
    if (!in.extend(&match)) return false;
    match += kMinMatch;
    if (offset == 0 || offset > done || match > n_out - done) return false;
    if (out != nullptr) {
      uint8_t* to = out + done;
      if (offset >= match)
        std::memcpy(to, to - offset, match);
      else  // the match overlaps what it writes and repeats it
        for (uint64_t i = 0; i < match; ++i) to[i] = to[i - offset];
    }
    done += match;
  }
  return false;
}

uint32_t load32(const uint8_t* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, 4);
  return word;
}

void append_length(uint64_t length, std::vector<uint8_t>* out) {
  if (length < 15) return;
  for (length -= 15; length >= 255; length -= 255) out->push_back(255);
  out->push_back(static_cast<uint8_t>(length));
}

// match is 0 for the last sequence.
void append_sequence(const uint8_t* literals, uint64_t n_literals, uint64_t offset, uint64_t match,
                     std::vector<uint8_t>* out) {
  const uint64_t extra = match == 0 ? 0 : match - kMinMatch;
  out->push_back(static_cast<uint8_t>(std::min<uint64_t>(n_literals, 15) << 4 | std::min<uint64_t>(extra, 15)));
  append_length(n_literals, out);
  out->insert(out->end(), literals, literals + n_literals);
  if (match == 0) return;
  out->push_back(static_cast<uint8_t>(offset));
  out->push_back(static_cast<uint8_t>(offset >> 8));
  append_length(extra, out);
}

// Greedy: at every position the last one with the same hash, if its four bytes are the same.
void encode_block(const uint8_t* bytes, uint64_t n, std::vector<uint8_t>* out) {
  std::vector<uint32_t> last(1u << kHashBits, 0);  // position + 1
  uint64_t literals = 0, at = 0;
  while (at + kMatchLimit <= n) {
    const uint32_t word = load32(bytes + at);
    uint32_t& slot = last[word * 2654435761u >> (32 - kHashBits)];
    const uint64_t found = slot;
    slot = static_cast<uint32_t>(at + 1);
    if (found == 0 || at + 1 - found > kMaxOffset || load32(bytes + found - 1) != word) {
      ++at;
      continue;
    }
    const uint64_t offset = at + 1 - found;
    uint64_t match = kMinMatch;
    while (at + match + kLastLiterals < n && bytes[at + match] == bytes[at + match - offset]) ++match;
    append_sequence(bytes + literals, at - literals, offset, match, out);
    at += match;
    literals = at;
  }
  append_sequence(bytes + literals, n - literals, 0, 0, out);
}

void check_entry(const TileEntry& e) {
  if (e.residual_bytes != 0) broken_tile("an lz4 tile has a residual");
  if (e.prefix_bytes < table_bytes(e)) broken_tile("size of an lz4 tile is wrong");
  // A block may be 255 times smaller than what it decodes to, so the tile's size alone would not bound memory.
  if (e.n_panels() * decoded_panel_bytes(e) > kMaxTileBytes) broken_tile("an lz4 tile decodes to more than 1 MiB");
}

bool decode_panel_to(const TileView& tile, int64_t panel, uint8_t* out) {
  const uint32_t begin = panel_end(tile, panel - 1), end = panel_end(tile, panel);
  return decode_block(tile.prefix + table_bytes(*tile.entry) + begin, end - begin, out,
                      decoded_panel_bytes(*tile.entry));
}

void check(const TileView& tile) {
  const TileEntry& e = *tile.entry;
  const uint64_t available = e.prefix_bytes - table_bytes(e);
  for (int64_t panel = 0; panel < e.n_panels(); ++panel) {
    if (panel_end(tile, panel) < panel_end(tile, panel - 1) || panel_end(tile, panel) > available)
      broken_tile("a block of an lz4 tile is out of order or range");
    if (!decode_panel_to(tile, panel, nullptr)) broken_tile("a block of an lz4 tile does not decode to its panel");
  }
  if (panel_end(tile, e.n_panels() - 1) != available) broken_tile("size of an lz4 tile is wrong");
}

void decode_panel(const TileView& tile, int64_t panel, PanelScratch& scratch) {
  const uint64_t n_bytes = decoded_panel_bytes(*tile.entry);
  if (scratch.size() < n_bytes) scratch.resize(n_bytes);
  decode_panel_to(tile, panel, scratch.data());
}

void decode(const TileView& tile, void* out) { decode_panels(tile, decode_panel, out); }

void open(const TileView& tile, int64_t panel, PanelReader* reader, PanelScratch& scratch) {
  open_decoded(tile, panel, decode_panel, reader, scratch);
}

bool encode(const Weights& weights, EncodedTile* tile) {
  const std::vector<uint8_t> raw = raw_panels(weights);
  const uint64_t panels = (weights.n_rows + kPanelRows - 1) / kPanelRows, n_bytes = raw.size() / panels;
  if (raw.size() > kMaxTileBytes) return false;
  std::vector<uint8_t> blocks;
  tile->prefix.clear();
  for (uint64_t panel = 0; panel < panels; ++panel) {
    encode_block(raw.data() + panel * n_bytes, n_bytes, &blocks);
    const uint32_t end = static_cast<uint32_t>(blocks.size());
    const auto* entry = reinterpret_cast<const uint8_t*>(&end);
    tile->prefix.insert(tile->prefix.end(), entry, entry + sizeof end);
  }
  tile->prefix.insert(tile->prefix.end(), blocks.begin(), blocks.end());
  return tile->prefix.size() < raw.size();
}

}  // namespace

const TileCodec& lz4_codec() {
  static const TileCodec codec{"lz4", check_entry, check, decode, open, encode};
  return codec;
}

}  // namespace vx
