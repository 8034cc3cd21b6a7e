// 100,000 faults injected into a shard and its index: each is found and named, or it hit padding and changed nothing.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "c3/verify.h"
#include "common/crc32c.h"
#include "fuzz/memory_file.h"
#include "fuzz/seeds.h"
#include "tests/check.h"

namespace {

using vx::TileEntry;
using vx::fuzz::MemoryFile;
using vx::fuzz::SeedMatrix;
using vx::fuzz::SeedShard;

#if defined(__SANITIZE_ADDRESS__)
constexpr int kSlower = 20;
#else
constexpr int kSlower = 1;
#endif
constexpr int kShardFaults = 75'000 / kSlower, kIndexFaults = 25'000 / kSlower;

enum Fault { kFlip, kByte, kZero, kSwap, kSplice, kRepeat, kInsert, kCut, kTruncate, kFaults };
const char* const kNames[kFaults] = {"bit flipped",    "byte changed",  "range zeroed",
                                     "tiles swapped",  "tile spliced",  "range copied",
                                     "range inserted", "range cut out", "shard truncated"};

struct Range {
  uint64_t begin, end;
};

// Where a tile's bytes lie: the prefix, or now and then the residual.
Range range_of(const TileEntry& e, uint64_t draw) {
  if (e.residual_bytes > 0 && draw % 2 == 0) return {e.residual_offset, e.residual_offset + e.residual_bytes};
  return {e.prefix_offset, e.prefix_offset + e.prefix_bytes};
}

struct Tally {
  std::array<int, kFaults> by_fault{};
  int n_rejected = 0, n_harmless = 0;
  int n() const { return n_rejected + n_harmless; }
};

class Injector {
 public:
  Injector(const SeedShard& shard, uint64_t seed, Tally* tally) : shard_(shard), random_(seed), tally_(tally) {
    for (const SeedMatrix& m : shard.matrices)
      matrices_.push_back({m.name, m.base_offset, m.index.data(), m.n_tiles()});
    file_.write(shard.bytes);
  }

  void inject() {
    const Fault fault = static_cast<Fault>(random_() % kFaults);
    std::vector<uint8_t> bytes = shard_.bytes;
    const Range at = somewhere();
    switch (fault) {
      case kFlip:
        bytes[at.begin] ^= static_cast<uint8_t>(1 << random_() % 8);
        break;
      case kByte:
        bytes[at.begin] = static_cast<uint8_t>(random_());
        break;
      case kZero:
        std::fill(bytes.begin() + at.begin, bytes.begin() + at.end, 0);
        break;
      case kSwap: {
        const Range a = tile_range(), b = tile_range();
        const uint64_t n = std::min(a.end - a.begin, b.end - b.begin);
        if (a.begin != b.begin) std::swap_ranges(&bytes[a.begin], &bytes[a.begin] + n, &bytes[b.begin]);
        break;
      }
      case kSplice: {
        const Range a = tile_range(), b = tile_range();
        std::copy_n(&shard_.bytes[b.begin], std::min(a.end - a.begin, b.end - b.begin), &bytes[a.begin]);
        break;
      }
      case kRepeat:
        std::copy_n(&shard_.bytes[random_() % (bytes.size() - (at.end - at.begin))], at.end - at.begin,
                    &bytes[at.begin]);
        break;
      case kInsert:
        bytes.insert(bytes.begin() + at.end, &shard_.bytes[at.begin], &shard_.bytes[at.end]);
        break;
      case kCut:
        bytes.erase(bytes.begin() + at.begin, bytes.begin() + at.end);
        break;
      default:
        bytes.resize(random_() % bytes.size());
        break;
    }
    store(bytes);
    judge(fault, bytes);
  }

 private:
  using TileName = std::pair<std::string, int64_t>;

  Range tile_range() {
    const SeedMatrix& m = shard_.matrices[random_() % shard_.matrices.size()];
    return range_of(m.tiles[random_() % m.tiles.size()], random_());
  }

  // Up to 300 bytes that start inside a tile, or anywhere one time in eight.
  Range somewhere() {
    const Range tile = tile_range();
    const uint64_t size = shard_.bytes.size();
    const uint64_t begin = random_() % 8 ? tile.begin + random_() % (tile.end - tile.begin) : random_() % size;
    return {begin, std::min(size, begin + 1 + random_() % 300)};
  }

  void store(const std::vector<uint8_t>& bytes) {
    const uint64_t common = std::min(bytes.size(), stored_.size());
    uint64_t begin = 0, end = bytes.size();
    if (bytes.size() == stored_.size()) {
      begin = static_cast<uint64_t>(std::mismatch(bytes.begin(), bytes.end(), stored_.begin()).first - bytes.begin());
      while (end > begin && bytes[end - 1] == stored_[end - 1]) --end;
    } else {
      begin = static_cast<uint64_t>(
          std::mismatch(bytes.begin(), bytes.begin() + static_cast<int64_t>(common), stored_.begin()).first -
          bytes.begin());
      file_.resize(bytes.size());
    }
    file_.patch(bytes, begin, end);
    stored_ = bytes;
  }

  bool changed(const std::vector<uint8_t>& bytes, uint64_t offset, uint32_t n) const {
    return offset + n > bytes.size() || !std::equal(&bytes[offset], &bytes[offset] + n, &shard_.bytes[offset]);
  }

  // Exactly the tiles whose bytes changed must be named, each with a range that changed.
  void judge(Fault fault, const std::vector<uint8_t>& bytes) {
    std::set<TileName> expected, named;
    std::set<std::pair<TileName, uint64_t>> places;
    for (const SeedMatrix& m : shard_.matrices)
      for (int64_t i = 0; i < m.n_tiles(); ++i) {
        const TileEntry& e = m.tiles[i];
        for (const auto& [offset, n] :
             {std::pair{e.prefix_offset, e.prefix_bytes}, {e.residual_offset, e.residual_bytes}})
          if (n > 0 && changed(bytes, offset, n)) {
            expected.insert({m.name, i});
            places.insert({{m.name, i}, offset});
          }
      }
    for (const vx::BadTile& bad : vx::verify_shard(file_.path(), shard_.bytes.size(), matrices_, 1).bad) {
      named.insert({bad.tensor, bad.tile});
      VX_CHECK(places.count({{bad.tensor, bad.tile}, bad.offset}) == 1);
      VX_CHECK(!bad.reason.empty());
    }
    VX_CHECK(named == expected);
    ++tally_->by_fault[fault];
    ++(expected.empty() ? tally_->n_harmless : tally_->n_rejected);
  }

  const SeedShard& shard_;
  std::mt19937_64 random_;
  Tally* tally_;
  std::vector<vx::VerifiedMatrix> matrices_;
  MemoryFile file_;
  std::vector<uint8_t> stored_ = shard_.bytes;
};

std::vector<uint64_t> lie(std::vector<uint64_t> index, const SeedShard& shard, std::mt19937_64& random) {
  const size_t word = random() % index.size(), n_rows = index.size() / 8;
  const auto row = [&](std::vector<uint64_t>& v, size_t i) { return v.begin() + static_cast<int64_t>(i * 8); };
  switch (random() % 6) {
    case 0:
      index[word] ^= uint64_t{1} << random() % 64;
      break;
    case 1:
      index[word] = random() >> random() % 64;
      break;
    case 2:
      index[word] += random() % 2 ? 1 : ~uint64_t{0};
      break;
    case 3:
      std::swap_ranges(row(index, 0), row(index, 0) + 8, row(index, random() % n_rows));
      break;
    case 4: {
      std::vector<uint64_t> other = shard.matrices[random() % shard.matrices.size()].index;
      std::copy_n(row(other, random() % (other.size() / 8)), 8, row(index, random() % n_rows));
      break;
    }
    default:
      index.resize((random() % n_rows) * 8);
      break;
  }
  return index;
}

// A small shard for each codec: every fault costs a read of the whole file.
VX_TEST(every_fault_in_a_shard_is_named) {
  const std::vector<vx::Codec> codecs = vx::fuzz::known_codecs();
  Tally tally;
  for (size_t i = 0; i < codecs.size(); ++i) {
    const SeedShard shard = vx::fuzz::seed_shard({codecs[i]}, 3, 40);
    Injector injector(shard, 2024 + i, &tally);
    while (tally.n() < kShardFaults * static_cast<int>(i + 1) / static_cast<int>(codecs.size())) injector.inject();
  }
  for (int i = 0; i < kFaults; ++i) std::printf("     %-16s %d\n", kNames[i], tally.by_fault[i]);
  std::printf("     %d faults in a shard: %d rejected by tensor, tile and offset, %d changed no byte that counts\n",
              tally.n(), tally.n_rejected, tally.n_harmless);
  VX_CHECK_EQ(tally.n(), kShardFaults);
  VX_CHECK(tally.n_rejected > kShardFaults * 8 / 10);
}

// The manifest seals the index, so any lie in it is found there. Without the seal, rules and checksums find all but
// those that describe other true tiles.
VX_TEST(every_fault_in_an_index_is_named) {
  const SeedShard shard = vx::fuzz::seed_shard(vx::fuzz::known_codecs(), 3, 40);
  std::mt19937_64 random(2025);
  MemoryFile file;
  file.write(shard.bytes);
  int n_by_rule = 0, n_by_seal = 0;
  for (int i = 0; i < kIndexFaults;) {
    const SeedMatrix& m = shard.matrices[random() % shard.matrices.size()];
    const std::vector<uint64_t> index = lie(m.index, shard, random);
    if (index == m.index) continue;
    ++i;
    VX_CHECK(vx::crc32c(index.data(), index.size() * 8) != vx::crc32c(m.index.data(), m.index.size() * 8));
    const int64_t n_tiles = static_cast<int64_t>(index.size() / 8);
    const auto verdict =
        vx::verify_shard(file.path(), shard.bytes.size(), {{m.name, m.base_offset, index.data(), n_tiles}}, 1);
    for (const vx::BadTile& bad : verdict.bad)
      VX_CHECK(bad.tensor == m.name && bad.tile < std::max<int64_t>(n_tiles, 1));
    ++(verdict.bad.empty() ? n_by_seal : n_by_rule);
  }
  std::printf("     %d faults in an index: %d rejected by rule or tile checksum, the other %d by the manifest's seal\n",
              kIndexFaults, n_by_rule, n_by_seal);
  VX_CHECK(n_by_rule > kIndexFaults * 8 / 10);
}

// Several workers find what one finds, in the same order; so do reads of one tile at a time.
VX_TEST(workers_and_layout_do_not_change_the_verdict) {
  SeedShard shard = vx::fuzz::seed_shard(vx::fuzz::known_codecs(), 5, 40);
  std::mt19937_64 random(3);
  for (int i = 0; i < 40; ++i) shard.bytes[random() % shard.bytes.size()] ^= 1;
  shard.bytes.resize(shard.bytes.size() - 3 * vx::kAlignment);
  const uint64_t file_bytes = shard.bytes.size() + 3 * vx::kAlignment;
  MemoryFile file;
  file.write(shard.bytes);
  std::vector<vx::VerifiedMatrix> matrices;
  for (const SeedMatrix& m : shard.matrices) matrices.push_back({m.name, m.base_offset, m.index.data(), m.n_tiles()});
  const auto one = vx::verify_shard(file.path(), file_bytes, matrices, 1);
  VX_CHECK(one.bad.size() > 10);
  const auto four = vx::verify_shard(file.path(), file_bytes, matrices, 4);
  VX_CHECK_EQ(four.bad.size(), one.bad.size());
  for (size_t i = 0; i < one.bad.size(); ++i)
    VX_CHECK(one.bad[i].tensor == four.bad[i].tensor && one.bad[i].tile == four.bad[i].tile &&
             one.bad[i].offset == four.bad[i].offset && one.bad[i].reason == four.bad[i].reason);
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
