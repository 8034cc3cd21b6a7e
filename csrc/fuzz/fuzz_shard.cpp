// A shard with any edits, with its old checksums or with true ones, read through the pager by two threads: a tile that
// decodes, the same bits where nothing was edited, or an error that names the tile.
#include <algorithm>
#include <mutex>
#include <set>
#include <thread>

#include "c3/pager.h"
#include "c3/verify.h"
#include "common/errors.h"
#include "fuzz/memory_file.h"
#include "fuzz/seeds.h"
#include "fuzz/target.h"

namespace {

using namespace vx;
using namespace vx::fuzz;

// One for each codec: small, so that a run is short.
const std::vector<SeedShard>& shards() {
  static const std::vector<SeedShard> all = [] {
    std::vector<SeedShard> out;
    for (const Codec codec : known_codecs()) out.push_back(seed_shard({codec}, 3, 40));
    return out;
  }();
  return all;
}

struct Edited {
  const SeedShard& shard;
  std::vector<uint8_t> bytes = shard.bytes;
  std::vector<std::vector<uint64_t>> indices;

  explicit Edited(const SeedShard& from) : shard(from) {
    for (const SeedMatrix& m : shard.matrices) indices.push_back(m.index);
  }

  // An edit is 12 bytes: kind, length, place, value.
  void apply(Reader& in) {
    const uint8_t kind = in.take<uint8_t>();
    const size_t length = in.take<uint8_t>() + size_t{1};
    const uint32_t place = in.take<uint32_t>(), value = in.take<uint32_t>();
    in.take<uint16_t>();
    const size_t at = place % std::max<size_t>(bytes.size(), 1), n = std::min(length, bytes.size() - at);
    const auto here = bytes.begin() + static_cast<int64_t>(at);
    switch (kind % 6) {
      case 0:
        if (n > 0) bytes[at] ^= static_cast<uint8_t>(value);
        break;
      case 1:
        std::fill(here, here + static_cast<int64_t>(n), static_cast<uint8_t>(value));
        break;
      case 2:
        bytes.resize(at);
        break;
      case 3:
        bytes.erase(here, here + static_cast<int64_t>(n));
        break;
      case 4:
        bytes.insert(here, length, static_cast<uint8_t>(value));
        break;
      default: {
        std::vector<uint64_t>& index = indices[place % indices.size()];
        uint64_t& word = index[length % index.size()];
        word = value & 1 ? word ^ uint64_t{1} << (value >> 1) % 64 : value;
        break;
      }
    }
  }

  // Gives tiles the checksums of their edited bytes, as somebody who writes a hostile file would.
  void reseal() {
    for (size_t i = 0; i < indices.size(); ++i)
      for (size_t row = 0; row < indices[i].size(); row += kIndexWords) {
        uint64_t* words = &indices[i][row];
        words[3] = crc_at(i, words[0], words[2] & 0xFFFFFFFF) | crc_at(i, words[1], words[2] >> 32) << 32;
      }
  }

  bool is_whole(const TileEntry& e) const {
    const auto kept = [&](uint64_t offset, uint32_t n) {
      return offset + n <= bytes.size() && std::memcmp(bytes.data() + offset, shard.bytes.data() + offset, n) == 0;
    };
    return kept(e.prefix_offset, e.prefix_bytes) &&
           (e.residual_bytes == 0 || kept(e.residual_offset, e.residual_bytes));
  }

 private:
  // 0 for a range that is not in the file.
  uint64_t crc_at(size_t matrix, uint64_t offset, uint64_t n) const {
    const uint64_t base = shard.matrices[matrix].base_offset;
    if (n == 0 || base > bytes.size() || offset > bytes.size() - base || n > bytes.size() - base - offset) return 0;
    return crc32c(bytes.data() + base + offset, n);
  }
};

struct Paged {
  size_t matrix;
  int handle;
  bool index_edited;
};

// Into memory of exactly the tile's size.
void decode(const TileView& view) {
  const uint64_t n = uint64_t{view.entry->n_rows} * view.entry->n_cols;
  std::vector<uint8_t> bits(n * static_cast<uint64_t>(float_layout(view.entry->dtype).item_bytes()));
  decode_tile(view, bits.data());
}

void read_tile(Pager& pager, const Edited& edited, const Paged& paged, int64_t tile) {
  const SeedMatrix& m = edited.shard.matrices[paged.matrix];
  try {
    const PinnedTile pin = pager.acquire(paged.handle, tile, tile % 3 ? Access::sweep : Access::lookup);
    const TileView& view = pin.view();
    check(crc32c(view.prefix, view.entry->prefix_bytes) == view.entry->prefix_crc, "a lent tile has its checksum");
    decode(view);
    if (paged.index_edited) return;
    const TileEntry& e = m.tiles[static_cast<size_t>(tile)];
    check(std::memcmp(view.prefix, edited.shard.bytes.data() + e.prefix_offset, e.prefix_bytes) == 0, "same prefix");
    check(e.residual_bytes == 0 ||
              std::memcmp(view.residual, edited.shard.bytes.data() + e.residual_offset, e.residual_bytes) == 0,
          "same residual");
  } catch (const CorruptTile& error) {
    check(error.tensor == m.name && error.tile == tile, "the error names tensor and tile");
    check(paged.index_edited || !edited.is_whole(m.tiles[static_cast<size_t>(tile)]), "a whole tile is lent");
  }
}

}  // namespace

// Policy and seal, codec, budget, depth, I/O threads, then edits.
std::vector<Input> vx::fuzz::seeds() {
  std::vector<Input> out;
  std::mt19937_64 random(4);
  for (size_t codec = 0; codec < shards().size(); ++codec)
    for (size_t n_edits = 0; n_edits < 6; ++n_edits) {
      Input input(5 + 12 * n_edits);
      for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
      input[1] = static_cast<uint8_t>(codec);
      out.push_back(std::move(input));
    }
  return out;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Reader in(data, size);
  const uint8_t flags = in.take<uint8_t>();
  const PolicyKind policy = flags & 1 ? PolicyKind::stable : PolicyKind::lru;
  const SeedShard& shard = shards()[in.take<uint8_t>() % shards().size()];
  const uint64_t budget_share = in.take<uint8_t>();
  const int depth = in.take<uint8_t>() % 5, io_threads = 1 + in.take<uint8_t>() % 3;
  Edited edited(shard);
  for (int n = 0; in.left() > 0 && n < 64; ++n) edited.apply(in);
  if (flags & 2) edited.reseal();
  static MemoryFile file;
  file.write(edited.bytes);

  const auto add = [&](Pager* pager) {
    std::vector<Paged> all;
    const int id = pager->add_file(file.path());
    for (size_t i = 0; i < edited.indices.size(); ++i) {
      const SeedMatrix& m = shard.matrices[i];
      const bool is_edited = edited.indices[i] != m.index;
      try {
        all.push_back(
            {i, pager->add_matrix(m.name, id, m.base_offset, edited.indices[i].data(), m.n_tiles()), is_edited});
      } catch (const CorruptTile& error) {
        check(error.tensor == m.name, "the error names the tensor");
        check(is_edited || edited.bytes.size() < shard.bytes.size(), "a true index is accepted");
      }
    }
    return all;
  };
  uint64_t least, total;
  {
    Pager probe(1 << 30, policy, depth, io_threads);
    if (add(&probe).empty()) return 0;
    least = probe.minimum_budget();
    total = probe.total_bytes();
  }
  Pager pager(least + (total > least ? (total - least) * budget_share / 255 : 0), policy, depth, io_threads);
  const std::vector<Paged> all = add(&pager);
  std::vector<int> sweep;
  for (const Paged& paged : all) sweep.push_back(paged.handle);
  pager.start(sweep);
  const auto reader = [&] {
    for (int round = 0; round < 2; ++round)
      for (const Paged& paged : all)
        for (int64_t tile = 0; tile < static_cast<int64_t>(pager.matrix(paged.handle).tiles.size()); ++tile)
          read_tile(pager, edited, paged, tile);
  };
  std::thread second(reader);
  reader();
  second.join();
  check(pager.counters().peak_bytes <= pager.counters().budget_bytes, "the budget is kept");
  pager.close();

  std::vector<VerifiedMatrix> matrices;
  for (size_t i = 0; i < edited.indices.size(); ++i) {
    const SeedMatrix& m = shard.matrices[i];
    matrices.push_back({m.name, m.base_offset, edited.indices[i].data(), m.n_tiles()});
  }
  std::set<std::pair<std::string, int64_t>> bad;
  for (const BadTile& tile : verify_shard(file.path(), shard.bytes.size(), matrices, 2).bad)
    bad.insert({tile.tensor, tile.tile});
  for (size_t i = 0; i < matrices.size(); ++i) {
    const SeedMatrix& m = shard.matrices[i];
    for (int64_t tile = 0; edited.indices[i] == m.index && tile < m.n_tiles(); ++tile)
      check(edited.is_whole(m.tiles[static_cast<size_t>(tile)]) == (bad.count({m.name, tile}) == 0),
            "exactly the damaged tiles are bad");
  }
  return 0;
}
