#include "c3/verify.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <tuple>

#include "c3/tile.h"
#include "c3/tile_index.h"
#include "common/crc32c.h"
#include "common/errors.h"
#include "common/thread_pool.h"

namespace vx {
namespace {

constexpr uint64_t kSpanBytes = 4 << 20;                      // reads are about this large
const char* const kIndexFault = "the tile index is corrupt";  // place and names stand before it, and here beside it
constexpr uint64_t kMaxSpanBytes = 16 << 20;                  // tiles that lie further apart are read one by one

struct TileRef {
  size_t matrix;
  int64_t tile;
  const TileEntry* entry;

  uint64_t begin() const {
    return entry->residual_bytes > 0 ? std::min(entry->prefix_offset, entry->residual_offset) : entry->prefix_offset;
  }
  uint64_t end() const {  // of the bytes that count, without the padding behind them
    const uint64_t prefix = entry->prefix_offset + entry->prefix_bytes;
    return entry->residual_bytes > 0 ? std::max(prefix, entry->residual_offset + entry->residual_bytes) : prefix;
  }
};

// Tiles whose ranges lie between begin and end and are read at once.
struct Span {
  uint64_t begin, end;
  std::vector<TileRef> tiles;
  uint64_t bytes() const { return align_up(end - begin); }
};

// Cuts where no tile has bytes on both sides, so that nothing is read twice: a group of prefixes and then residuals
// stays together.
std::vector<Span> cut_spans(std::vector<TileRef> tiles) {
  std::sort(tiles.begin(), tiles.end(), [](const TileRef& a, const TileRef& b) { return a.begin() < b.begin(); });
  std::vector<Span> whole;
  for (const TileRef& tile : tiles) {
    if (whole.empty() || tile.begin() >= align_up(whole.back().end)) whole.push_back({tile.begin(), 0, {}});
    whole.back().end = std::max(whole.back().end, tile.end());
    whole.back().tiles.push_back(tile);
  }
  std::vector<Span> spans;
  for (Span& next : whole) {
    const bool fits = !spans.empty() && next.end - spans.back().begin <= kSpanBytes;
    if (!fits) {
      spans.push_back(std::move(next));
      continue;
    }
    spans.back().end = next.end;
    spans.back().tiles.insert(spans.back().tiles.end(), next.tiles.begin(), next.tiles.end());
  }
  return spans;
}

struct FreeAligned {
  void operator()(uint8_t* p) const { std::free(p); }
};

class Verifier {
 public:
  Verifier(const std::string& path, uint64_t file_bytes, const std::vector<VerifiedMatrix>& matrices)
      : file_(path), matrices_(matrices) {
    std::vector<TileRef> tiles;
    indices_.reserve(matrices.size());
    for (size_t i = 0; i < matrices.size(); ++i) {
      const VerifiedMatrix& m = matrices[i];
      try {
        indices_.push_back(parse_tile_index(path, m.name, file_bytes, m.base_offset, m.index, m.n_tiles));
      } catch (const CorruptTile& error) {
        indices_.push_back({});
        const std::string what = error.what();
        const size_t rule = what.find(kIndexFault);
        bad_.push_back({i, error.tile, error.offset, rule == std::string::npos ? what : what.substr(rule)});
      }
      for (size_t tile = 0; tile < indices_.back().tiles.size(); ++tile)
        tiles.push_back({i, static_cast<int64_t>(tile), &indices_.back().tiles[tile]});
    }
    spans_ = cut_spans(std::move(tiles));
  }

  ShardVerdict run(int n_threads, const std::function<void(uint64_t)>& progress) {
    uint64_t largest = kMaxTileBytes;
    for (const Span& span : spans_)
      if (span.bytes() <= kMaxSpanBytes) largest = std::max(largest, span.bytes());
    std::atomic<size_t> next{0};
    ThreadPool(n_threads).run([&](int worker) {
      const std::unique_ptr<uint8_t, FreeAligned> buffer(
          static_cast<uint8_t*>(std::aligned_alloc(kAlignment, largest)));
      if (!buffer) throw std::bad_alloc();
      for (size_t i; !failed_ && (i = next.fetch_add(1)) < spans_.size();) {
        try {
          check_span(spans_[i], buffer.get());
          if (worker == 0 && progress) progress(bytes_read_);
        } catch (...) {
          failed_ = true;
          throw;
        }
      }
    });
    std::sort(bad_.begin(), bad_.end(),
              [](const Found& a, const Found& b) { return std::tie(a.matrix, a.tile) < std::tie(b.matrix, b.tile); });
    ShardVerdict verdict{bytes_read_, file_.mode(), {}};
    for (Found& f : bad_) verdict.bad.push_back({matrices_[f.matrix].name, f.tile, f.offset, std::move(f.reason)});
    return verdict;
  }

 private:
  struct Found {
    size_t matrix;
    int64_t tile;
    uint64_t offset;
    std::string reason;
  };

  void check_span(const Span& span, uint8_t* buffer) {
    if (span.bytes() <= kMaxSpanBytes) {
      try {
        const uint64_t got = file_.read(span.begin, buffer, span.bytes(), span.end - span.begin);
        for (const TileRef& t : span.tiles) {
          const TileEntry& e = *t.entry;
          const uint8_t* residual = e.residual_bytes > 0 ? buffer + (e.residual_offset - span.begin) : nullptr;
          check(t, buffer + (e.prefix_offset - span.begin), residual, span.begin + got);
        }
        bytes_read_ += span.bytes();
        return;
      } catch (const MachineFailure&) {
        // One unreadable block: the tiles around it may be whole.
      }
    }
    for (const TileRef& t : span.tiles) check_alone(t, buffer);
  }

  void check_alone(const TileRef& t, uint8_t* buffer) {
    const TileEntry& e = *t.entry;
    const uint64_t prefix = align_up(e.prefix_bytes), residual = align_up(e.residual_bytes);
    uint64_t offset = e.prefix_offset;
    try {
      uint64_t file_end = offset + file_.read(offset, buffer, prefix, e.prefix_bytes);
      if (residual > 0 && file_end >= offset + e.prefix_bytes) {
        offset = e.residual_offset;
        const uint64_t end = offset + file_.read(offset, buffer + prefix, residual, e.residual_bytes);
        // Both ranges arrived unless one ended early.
        file_end = end < offset + e.residual_bytes ? end : std::max(file_end, end);
      }
      check(t, buffer, residual > 0 ? buffer + prefix : nullptr, file_end);
      bytes_read_ += e.stored_bytes();
    } catch (const MachineFailure& failure) {
      found(t, offset, failure.what());
    }
  }

  void check(const TileRef& t, const uint8_t* prefix, const uint8_t* residual, uint64_t file_end) {
    const TileEntry& e = *t.entry;
    if (t.end() > file_end) {
      const bool in_prefix = e.prefix_offset + e.prefix_bytes > file_end;
      return found(t, in_prefix ? e.prefix_offset : e.residual_offset, "the file ends inside the tile");
    }
    if (crc32c(prefix, e.prefix_bytes) != e.prefix_crc)
      return found(t, e.prefix_offset, "wrong checksum of the prefix");
    if (residual != nullptr && crc32c(residual, e.residual_bytes) != e.residual_crc)
      return found(t, e.residual_offset, "wrong checksum of the residual");
    try {
      check_tile({&e, prefix, residual});
    } catch (const std::runtime_error& error) {
      found(t, e.prefix_offset, error.what());
    }
  }

  void found(const TileRef& t, uint64_t offset, std::string reason) {
    std::lock_guard lock(mutex_);
    bad_.push_back({t.matrix, t.tile, offset, std::move(reason)});
  }

  const ShardFile file_;
  const std::vector<VerifiedMatrix>& matrices_;
  std::vector<TileIndex> indices_;  // never grows after the constructor: TileRef points into it
  std::vector<Span> spans_;
  std::atomic<uint64_t> bytes_read_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::vector<Found> bad_;
};

}  // namespace

ShardVerdict verify_shard(const std::string& path, uint64_t file_bytes, const std::vector<VerifiedMatrix>& matrices,
                          int n_threads, const std::function<void(uint64_t)>& progress) {
  return Verifier(path, file_bytes, matrices).run(n_threads, progress);
}

}  // namespace vx
