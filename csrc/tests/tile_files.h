// Shard files for tests: matrices of random tiles in the layout of FORMAT.md, with the bytes kept to compare.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "c3/pager.h"
#include "c3/tile.h"
#include "common/crc32c.h"

namespace vx::test {

struct Ranges {
  std::vector<uint8_t> prefix, residual;
};

struct FileMatrix {
  std::string name;
  uint64_t base_offset;
  std::vector<uint64_t> index;  // [n_tiles, 8]
  std::vector<Ranges> tiles;
  int64_t n_tiles() const { return static_cast<int64_t>(tiles.size()); }
};

struct Shape {
  uint32_t rows, cols, panels_per_tile;
  uint32_t split_cols = 0;  // columns of a tile that splits one panel; 0: whole rows
  Codec codec = Codec::exact;
};

// A file in a temporary directory, removed with it.
class TileFile {
 public:
  explicit TileFile(uint64_t seed = 1) : random_(seed) {
    char name[] = "vortex_pager_XXXXXX";
    const char* root = std::getenv("TMPDIR");
    directory_ = std::string(root != nullptr ? root : "/tmp") + "/" + name;
    if (mkdtemp(directory_.data()) == nullptr) throw std::runtime_error("no temporary directory");
    bytes_.assign(kAlignment, 'h');  // stands for the header
  }
  ~TileFile() {
    std::remove(path().c_str());
    rmdir(directory_.c_str());
  }
  TileFile(const TileFile&) = delete;
  TileFile& operator=(const TileFile&) = delete;

  std::string path() const { return directory_ + "/shard.safetensors"; }
  std::vector<uint8_t>& bytes() { return bytes_; }
  std::vector<FileMatrix>& matrices() { return matrices_; }

  void add(const Shape& s) {
    FileMatrix m{"layer." + std::to_string(matrices_.size()), bytes_.size(), {}, {}};
    const uint32_t tile_rows = s.panels_per_tile * kPanelRows, tile_cols = s.split_cols ? s.split_cols : s.cols;
    for (uint32_t row = 0; row < s.rows; row += tile_rows)
      for (uint32_t col = 0; col < s.cols; col += tile_cols) {
        const uint64_t n_rows = std::min(tile_rows, s.rows - row), n_cols = std::min(tile_cols, s.cols - col);
        Ranges r = make_tile(s.codec, n_rows, n_cols);
        const uint64_t row_words[8] = {0,
                                       0,
                                       r.prefix.size() | r.residual.size() << 32,
                                       crc(r.prefix) | crc(r.residual) << 32,
                                       static_cast<uint64_t>(s.codec) | 1 << 8 | 1 << 16,
                                       row | n_rows << 32,
                                       col | n_cols << 32,
                                       0};
        m.index.insert(m.index.end(), row_words, row_words + 8);
        m.tiles.push_back(std::move(r));
      }
    for (size_t group = 0; group < m.tiles.size(); group += 8) {
      const size_t end = std::min(group + 8, m.tiles.size());
      for (size_t i = group; i < end; ++i) m.index[i * 8] = append(m.tiles[i].prefix) - m.base_offset;
      for (size_t i = group; i < end; ++i)
        if (!m.tiles[i].residual.empty()) m.index[i * 8 + 1] = append(m.tiles[i].residual) - m.base_offset;
    }
    matrices_.push_back(std::move(m));
  }

  void write() {
    std::ofstream(path(), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes_.data()), static_cast<std::streamsize>(bytes_.size()));
    flush();
  }

  // Flips bits of one byte, in place: other bytes may be read meanwhile.
  void flip(uint64_t offset, uint8_t bits) {
    bytes_[offset] ^= bits;
    std::fstream file(path(), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(offset)).put(static_cast<char>(bytes_[offset]));
    file.close();
    flush();
  }

  // Adds the file and all its matrices; handles are 0, 1, ...
  void add_to(Pager* pager, IoMode mode = IoMode::direct) const {
    const int file = pager->add_file(path(), mode);
    for (const FileMatrix& m : matrices_) pager->add_matrix(m.name, file, m.base_offset, m.index.data(), m.n_tiles());
  }

  bool equal(int matrix, int64_t tile, const TileView& view) const {
    const Ranges& r = matrices_[matrix].tiles[tile];
    return view.entry->prefix_bytes == r.prefix.size() && view.entry->residual_bytes == r.residual.size() &&
           (view.residual == nullptr) == r.residual.empty() &&
           reinterpret_cast<uintptr_t>(view.prefix) % kAlignment == 0 &&
           std::memcmp(view.prefix, r.prefix.data(), r.prefix.size()) == 0 &&
           (r.residual.empty() || std::memcmp(view.residual, r.residual.data(), r.residual.size()) == 0);
  }

 private:
  static uint64_t crc(const std::vector<uint8_t>& bytes) { return crc32c(bytes.data(), bytes.size()); }

  // A direct read of pages that wait to be written would have to write them first.
  void flush() const {
    const int fd = open(path().c_str(), O_RDONLY);
    fsync(fd);
    close(fd);
  }

  uint64_t append(const std::vector<uint8_t>& bytes) {
    const uint64_t offset = bytes_.size();
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    bytes_.resize(align_up(bytes_.size()), 0);
    return offset;
  }

  void fill(uint8_t* p, size_t n) {
    for (size_t i = 0; i < n; ++i) p[i] = static_cast<uint8_t>(random_());
  }

  Ranges make_tile(Codec codec, uint64_t n_rows, uint64_t n_cols) {
    const uint64_t panels = (n_rows + 63) / 64, blocks = panels * ((n_cols + 7) / 8);
    Ranges r;
    if (codec == Codec::raw) {
      r.prefix.resize(panels * 64 * n_cols * 2);
      fill(r.prefix.data(), r.prefix.size());
      return r;
    }
    const uint64_t table = (panels * 16 + 63) / 64 * 64;
    r.prefix.resize(table + blocks * 320);  // no escapes
    for (uint64_t p = 0; p < panels; ++p) r.prefix[p * 16] = 120;
    fill(r.prefix.data() + table, blocks * 320);
    r.residual.resize(blocks * 384 + blocks + (blocks & 1));
    fill(r.residual.data(), blocks * 384);
    return r;
  }

  std::mt19937_64 random_;
  std::string directory_;
  std::vector<uint8_t> bytes_;
  std::vector<FileMatrix> matrices_;
};

// Seven matrices of odd sizes; number 6 stands for an untied embedding.
inline std::unique_ptr<TileFile> make_model() {
  auto file = std::make_unique<TileFile>();
  file->add({500, 63, 1});
  file->add({64 * 9, 128, 2});
  file->add({130, 37, 1, 0, Codec::raw});
  file->add({200, 500, 1, 128});
  file->add({64 * 12, 200, 3});
  file->add({1, 8, 1});
  file->add({700, 64, 2});
  file->write();
  return file;
}

}  // namespace vx::test
