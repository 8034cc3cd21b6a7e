#include "common/crc32c.h"

#include <array>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#define VX_CRC_INSTRUCTION __attribute__((target("sse4.2")))
#elif defined(__aarch64__)
#include <arm_acle.h>

#include "common/cpu_features.h"
#define VX_CRC_INSTRUCTION __attribute__((target("arch=armv8-a+crc")))
#endif

namespace vx {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;  // reflected

// tables[k][b]: the register after byte b and k zero bytes.
constexpr std::array<std::array<uint32_t, 256>, 8> make_tables() {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t c = b;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1) ? kPolynomial : 0);
    tables[0][b] = c;
  }
  for (size_t k = 1; k < 8; ++k)
    for (size_t b = 0; b < 256; ++b) tables[k][b] = (tables[k - 1][b] >> 8) ^ tables[0][tables[k - 1][b] & 255];
  return tables;
}

constexpr auto kTables = make_tables();

uint64_t load_u64(const uint8_t* p) {
  uint64_t v;
  std::memcpy(&v, p, 8);
  return v;
}

// The product of two polynomials modulo the checksum's; the highest bit is the coefficient of 1.
uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b >> 1) ^ ((b & 1) ? kPolynomial : 0);
  }
  return product;
}

#if defined(VX_CRC_INSTRUCTION)

#if defined(__x86_64__)
bool has_instruction() { return __builtin_cpu_supports("sse4.2"); }
VX_CRC_INSTRUCTION inline uint64_t add_u64(uint64_t crc, uint64_t v) { return _mm_crc32_u64(crc, v); }
VX_CRC_INSTRUCTION inline uint64_t add_u8(uint64_t crc, uint8_t v) {
  return _mm_crc32_u8(static_cast<uint32_t>(crc), v);
}
#else
bool has_instruction() { return has_arm_crc32(); }
VX_CRC_INSTRUCTION inline uint64_t add_u64(uint64_t crc, uint64_t v) {
  return __crc32cd(static_cast<uint32_t>(crc), v);
}
VX_CRC_INSTRUCTION inline uint64_t add_u8(uint64_t crc, uint8_t v) { return __crc32cb(static_cast<uint32_t>(crc), v); }
#endif

// Advances the register over a fixed number of zero bytes: what joins lanes that were computed side by side.
class ZeroBytes {
 public:
  explicit ZeroBytes(size_t n) {
    for (int bit = 0; bit < 32; ++bit) {
      uint32_t c = 1u << bit;
      for (size_t i = 0; i < n; ++i) c = (c >> 8) ^ kTables[0][c & 255];
      for (uint32_t b = 0; b < 256; ++b)
        if (b >> (bit % 8) & 1) table_[bit / 8][b] ^= c;
    }
  }
  uint32_t operator()(uint32_t c) const {
    return table_[0][c & 255] ^ table_[1][c >> 8 & 255] ^ table_[2][c >> 16 & 255] ^ table_[3][c >> 24];
  }

 private:
  uint32_t table_[4][256] = {};
};

// The instruction has a latency of three cycles and a throughput of one: three lanes keep it busy.
template <size_t kLane>
VX_CRC_INSTRUCTION uint32_t three_lanes(const uint8_t*& p, size_t& n, uint32_t crc) {
  static const ZeroBytes skip_lane(kLane);
  for (; n >= 3 * kLane; n -= 3 * kLane, p += 3 * kLane) {
    uint64_t a = crc, b = 0, c = 0;
    for (size_t i = 0; i < kLane; i += 8) {
      a = add_u64(a, load_u64(p + i));
      b = add_u64(b, load_u64(p + kLane + i));
      c = add_u64(c, load_u64(p + 2 * kLane + i));
    }
    crc = skip_lane(skip_lane(static_cast<uint32_t>(a)) ^ static_cast<uint32_t>(b)) ^ static_cast<uint32_t>(c);
  }
  return crc;
}

VX_CRC_INSTRUCTION uint32_t crc32c_instruction(const uint8_t* p, size_t n, uint32_t crc) {
  crc = ~crc;
  crc = three_lanes<4096>(p, n, crc);
  crc = three_lanes<256>(p, n, crc);
  uint64_t c = crc;
  for (; n >= 8; n -= 8, p += 8) c = add_u64(c, load_u64(p));
  for (; n > 0; --n, ++p) c = add_u8(c, *p);
  return ~static_cast<uint32_t>(c);
}

#endif

}  // namespace

uint32_t crc32c_portable(const void* data, size_t n, uint32_t crc) {
  static_assert(std::endian::native == std::endian::little, "eight bytes are sliced as a little-endian word");
  const uint8_t* p = static_cast<const uint8_t*>(data);
  uint32_t c = ~crc;
  for (; n >= 8; n -= 8, p += 8) {
    const uint64_t v = load_u64(p) ^ c;
    c = 0;
    for (int i = 0; i < 8; ++i) c ^= kTables[7 - i][v >> (8 * i) & 255];
  }
  for (; n > 0; --n, ++p) c = (c >> 8) ^ kTables[0][(c ^ *p) & 255];
  return ~c;
}

uint32_t crc32c_joined(uint32_t crc_a, uint32_t crc_b, size_t n) {
  uint32_t shift = 1u << 31, byte = 1u << 23;  // x^(8n) so far, x^(8 * 2^i)
  for (; n > 0; n >>= 1, byte = multiply(byte, byte))
    if (n & 1) shift = multiply(shift, byte);
  return multiply(shift, crc_a) ^ crc_b;
}

uint32_t crc32c(const void* data, size_t n, uint32_t crc) {
#if defined(VX_CRC_INSTRUCTION)
  static const bool is_there = has_instruction();
  if (is_there) return crc32c_instruction(static_cast<const uint8_t*>(data), n, crc);
#endif
  return crc32c_portable(data, n, crc);
}

}  // namespace vx
