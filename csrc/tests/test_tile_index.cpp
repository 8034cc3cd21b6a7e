// No value of an index row may get past the parser and be believed.
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "c3/pager.h"
#include "c3/tile_index.h"
#include "common/errors.h"
#include "tests/check.h"
#include "tests/tile_files.h"

namespace {

using vx::Pager;
using vx::PolicyKind;
using vx::test::make_model;

VX_TEST(lying_index_rows_are_refused) {
  const auto file = make_model();
  std::mt19937_64 random(11);
  int refused = 0, n_tries = 0;
  for (const vx::test::FileMatrix& m : file->matrices()) {
    for (int i = 0; i < 3000; ++i) {
      auto index = m.index;
      const size_t word = random() % index.size();
      switch (random() % 4) {
        case 0:
          index[word] = random();
          break;
        case 1:
          index[word] ^= uint64_t{1} << random() % 64;
          break;
        case 2:
          index[word] = ~uint64_t{0} << random() % 64;
          break;
        default:
          std::swap(index[word], index[random() % index.size()]);
          break;
      }
      if (index == m.index || word % 8 == 3) continue;  // a wrong checksum is for the reader to find
      ++n_tries;
      Pager pager(1 << 20, PolicyKind::stable, 4, 1);
      const int f = pager.add_file(file->path());
      try {
        pager.add_matrix(m.name, f, m.base_offset, index.data(), m.n_tiles());
        pager.verify(0);  // what still looks possible is found by checksums, or is in fact the same tile
      } catch (const vx::CorruptTile& error) {
        ++refused;
        VX_CHECK(error.tensor == m.name && error.file == file->path() && error.tile < m.n_tiles());
      }
    }
    std::vector<uint64_t> noise(m.index.size());
    for (auto& w : noise) w = random();
    Pager pager(1 << 20, PolicyKind::stable, 4, 1);
    const int f = pager.add_file(file->path());
    VX_CHECK_THROWS(pager.add_matrix(m.name, f, m.base_offset, noise.data(), m.n_tiles()), vx::CorruptTile, {});
    VX_CHECK_THROWS(pager.add_matrix(m.name, f, random(), m.index.data(), m.n_tiles()), vx::CorruptTile, {});
    VX_CHECK_THROWS(pager.add_matrix(m.name, f, ~uint64_t{0} << 12, m.index.data(), m.n_tiles()), vx::CorruptTile, {});
    VX_CHECK_THROWS(pager.add_matrix(m.name, f, m.base_offset, m.index.data(), 0), vx::CorruptTile, {});
  }
  std::printf("     %d of %d lying rows refused\n", refused, n_tries);
  VX_CHECK(refused > n_tries * 9 / 10);
}

VX_TEST(each_rule_of_the_index_is_checked) {
  const auto file = make_model();
  const vx::test::FileMatrix& m = file->matrices()[1];  // whole panels
  const uint64_t size = file->bytes().size();
  struct Lie {
    int word;
    uint64_t value;  // of tile 2
    const char* rule;
  };
  const uint64_t* row = m.index.data() + 16;
  const Lie lies[] = {
      {0, row[0] + 1, "multiple of 4096"},
      {0, (size / 4096 + 1) * 4096, "outside the file"},
      {1, ~uint64_t{4095}, "outside the file"},
      {0, m.index[8], "overlap"},
      {1, row[0], "overlap"},
      {2, row[2] | 0xFFFFFFFF, "1 MiB"},
      {2, row[2] & ~uint64_t{0xFFFFFFFF}, "stored size"},
      {2, row[2] + 2, "prefix size"},
      {2, row[2] + (uint64_t{1} << 32), "residual size"},
      {4, row[4] | 255, "unknown codec"},
      {4, row[4] | 7 << 8, "unknown dtype"},
      {4, row[4] + (1 << 8), "source dtype"},
      {4, row[4] | 1 << 24, "reserved"},
      {7, 1, "reserved"},
      {5, row[5] + 64, "does not continue"},
      {5, row[5] & 0xFFFFFFFF, "no rows"},
      {6, row[6] + (uint64_t{8} << 32), "size is wrong"},
      {6, ~uint64_t{0} << 32, "any possible tile"},
  };
  for (const Lie& lie : lies) {
    auto index = m.index;
    index[16 + lie.word] = lie.value;
    Pager pager(1 << 20, PolicyKind::stable, 4, 1);
    const int f = pager.add_file(file->path());
    VX_CHECK_THROWS(pager.add_matrix(m.name, f, m.base_offset, index.data(), m.n_tiles()), vx::CorruptTile, {
      VX_CHECK_EQ(error.tile, int64_t{2});
      if (std::string(error.what()).find(lie.rule) == std::string::npos)
        vx::test::fail(__FILE__, __LINE__, std::string(error.what()) + " is not about " + lie.rule);
    });
  }
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
