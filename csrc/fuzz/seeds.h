// Encoded tiles of edge-case weights, and shards made of them: what fuzzers mutate and what faults are injected into.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "c3/codec.h"
#include "c3/codec_table.h"
#include "c3/float_layout.h"
#include "c3/tile.h"
#include "common/crc32c.h"

namespace vx::fuzz {

constexpr int kIndexWords = 8;

struct SeedTile {
  EncodedTile bytes;
  Dtype source_dtype;
  uint32_t n_rows, n_cols;
};

enum class Kind { normal, outliers, zeros, patterns };

// Little-endian patterns of n weights.
inline std::vector<uint8_t> seed_weights(Kind kind, Dtype dtype, int64_t n, std::mt19937_64& random) {
  const int item = float_layout(dtype).item_bytes();
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<uint8_t> out(static_cast<size_t>(n * item));
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits = static_cast<uint32_t>(random());
    if (kind != Kind::patterns) {
      float value = kind == Kind::zeros ? 0.0f : normal(random);
      // Far and near escapes, and weights that are exactly zero.
      if (kind == Kind::outliers) value *= random() % 40 == 0 ? 1e6f : random() % 20 == 0 ? 1e-4f : random() % 9 > 0;
      std::memcpy(&bits, &value, sizeof bits);
      if (dtype == Dtype::bf16) bits >>= 16;
      if (dtype == Dtype::f16) {
        const uint32_t exponent = (bits >> 23) & 255;
        bits = (bits >> 16 & 0x8000) | (exponent > 112 ? ((exponent - 112) & 31) << 10 : 0) | (bits >> 13 & 1023);
      }
    }
    std::memcpy(out.data() + i * item, &bits, static_cast<size_t>(item));
  }
  return out;
}

inline std::vector<Codec> known_codecs() {
  std::vector<Codec> codecs;
  for (int id = 0; id < 256; ++id)
    if (find_codec(id) != nullptr) codecs.push_back(static_cast<Codec>(id));
  return codecs;
}

inline SeedTile seed_tile(Kind kind, Dtype dtype, Codec codec, uint32_t n_rows, uint32_t n_cols,
                          std::mt19937_64& random) {
  const std::vector<uint8_t> weights = seed_weights(kind, dtype, int64_t{n_rows} * n_cols, random);
  return {encode_tile({weights.data(), n_cols, n_rows, n_cols, dtype}, codec), dtype, n_rows, n_cols};
}

inline TileEntry entry_of(const SeedTile& tile) {
  TileEntry e{};
  e.prefix_bytes = static_cast<uint32_t>(tile.bytes.prefix.size());
  e.residual_bytes = static_cast<uint32_t>(tile.bytes.residual.size());
  e.codec = tile.bytes.codec;
  e.dtype = tile.bytes.dtype;
  e.source_dtype = tile.source_dtype;
  e.n_rows = tile.n_rows;
  e.n_cols = tile.n_cols;
  return e;
}

struct SeedMatrix {
  std::string name;
  uint64_t base_offset;
  std::vector<uint64_t> index;  // [n_tiles, kIndexWords]
  std::vector<TileEntry> tiles;
  int64_t n_tiles() const { return static_cast<int64_t>(tiles.size()); }
};

// A shard in memory as FORMAT.md lays it out, its header left out: a block of 4096 bytes stands for it.
struct SeedShard {
  std::vector<uint8_t> bytes = std::vector<uint8_t>(kAlignment, 'h');
  std::vector<SeedMatrix> matrices;

  // n_tiles tiles of one 64-row panel each, the last of fewer rows.
  void add(Kind kind, Dtype dtype, Codec codec, uint32_t n_tiles, uint32_t n_cols, std::mt19937_64& random) {
    SeedMatrix m{"layer." + std::to_string(matrices.size()), bytes.size(), {}, {}};
    std::vector<SeedTile> tiles;
    for (uint32_t i = 0; i < n_tiles; ++i) {
      const uint32_t n_rows = i + 1 < n_tiles ? 64 : 37;
      tiles.push_back(seed_tile(kind, dtype, codec, n_rows, n_cols, random));
      TileEntry e = entry_of(tiles.back());
      e.prefix_crc = crc(tiles.back().bytes.prefix);
      e.residual_crc = e.residual_bytes > 0 ? crc(tiles.back().bytes.residual) : 0;
      e.row0 = i * 64;
      m.tiles.push_back(e);
    }
    for (uint32_t i = 0; i < n_tiles; ++i) m.tiles[i].prefix_offset = append(tiles[i].bytes.prefix);
    for (uint32_t i = 0; i < n_tiles; ++i)
      if (m.tiles[i].residual_bytes > 0) m.tiles[i].residual_offset = append(tiles[i].bytes.residual);
    for (const TileEntry& e : m.tiles) append_row(e, m.base_offset, &m.index);
    matrices.push_back(std::move(m));
  }

 private:
  static uint32_t crc(const std::vector<uint8_t>& bytes) { return crc32c(bytes.data(), bytes.size()); }

  static void append_row(const TileEntry& e, uint64_t base, std::vector<uint64_t>* index) {
    const uint64_t kinds = static_cast<uint64_t>(e.codec) | static_cast<uint64_t>(e.dtype) << 8 |
                           static_cast<uint64_t>(e.source_dtype) << 16;
    const uint64_t row[kIndexWords] = {e.prefix_offset - base,
                                       e.residual_bytes > 0 ? e.residual_offset - base : 0,
                                       e.prefix_bytes | uint64_t{e.residual_bytes} << 32,
                                       e.prefix_crc | uint64_t{e.residual_crc} << 32,
                                       kinds,
                                       e.row0 | uint64_t{e.n_rows} << 32,
                                       e.col0 | uint64_t{e.n_cols} << 32,
                                       0};
    index->insert(index->end(), row, row + kIndexWords);
  }

  uint64_t append(const std::vector<uint8_t>& range) {
    const uint64_t offset = bytes.size();
    bytes.insert(bytes.end(), range.begin(), range.end());
    bytes.resize(align_up(bytes.size()), 0);
    return offset;
  }
};

// A matrix of every dtype for each codec, a few tiles each.
inline SeedShard seed_shard(const std::vector<Codec>& codecs, uint32_t n_tiles, uint32_t n_cols) {
  std::mt19937_64 random(5);
  SeedShard shard;
  for (const Codec codec : codecs)
    for (const Dtype dtype : {Dtype::bf16, Dtype::f16, Dtype::f32})
      shard.add(Kind::outliers, dtype, codec, n_tiles, n_cols, random);
  return shard;
}

}  // namespace vx::fuzz
