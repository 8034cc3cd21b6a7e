#include <cstring>
#include <random>
#include <vector>

#include "common/crc32c.h"
#include "tests/check.h"

namespace {

using vx::crc32c;
using vx::crc32c_portable;

uint32_t bit_by_bit(const uint8_t* p, size_t n) {
  uint32_t c = ~0u;
  for (size_t i = 0; i < n; ++i) {
    c ^= p[i];
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1) ? 0x82F63B78u : 0);
  }
  return ~c;
}

std::vector<uint8_t> random_bytes(size_t n) {
  std::mt19937_64 random(n + 7);
  std::vector<uint8_t> bytes(n);
  for (auto& b : bytes) b = static_cast<uint8_t>(random());
  return bytes;
}

VX_TEST(known_answers) {
  VX_CHECK_EQ(crc32c("123456789", 9), 0xE3069283u);
  VX_CHECK_EQ(crc32c_portable("123456789", 9), 0xE3069283u);
  VX_CHECK_EQ(crc32c("", 0), 0u);
  const std::vector<uint8_t> zeros(32, 0), ones(32, 0xFF);  // RFC 3720 B.4
  VX_CHECK_EQ(crc32c(zeros.data(), 32), 0x8A9136AAu);
  VX_CHECK_EQ(crc32c(ones.data(), 32), 0x62A8AB43u);
}

VX_TEST(every_size_and_alignment_agrees_with_the_definition) {
  const auto bytes = random_bytes(30000);
  for (size_t n : {0, 1, 7, 8, 9, 63, 255, 256, 767, 768, 769, 1535, 1537, 12287, 12288, 12289, 13057, 25000})
    for (size_t start : {0, 1, 3, 8, 13}) {
      const uint32_t expected = bit_by_bit(bytes.data() + start, n);
      VX_CHECK_EQ(crc32c(bytes.data() + start, n), expected);
      VX_CHECK_EQ(crc32c_portable(bytes.data() + start, n), expected);
    }
}

VX_TEST(chaining_is_concatenation) {
  const auto bytes = random_bytes(27001);
  const uint32_t whole = crc32c(bytes.data(), bytes.size());
  for (size_t cut : {0, 1, 500, 12288, 13000, 27000, 27001}) {
    VX_CHECK_EQ(crc32c(bytes.data() + cut, bytes.size() - cut, crc32c(bytes.data(), cut)), whole);
    VX_CHECK_EQ(crc32c_portable(bytes.data() + cut, bytes.size() - cut, crc32c(bytes.data(), cut)), whole);
    const uint32_t after = crc32c(bytes.data() + cut, bytes.size() - cut);
    VX_CHECK_EQ(vx::crc32c_joined(crc32c(bytes.data(), cut), after, bytes.size() - cut), whole);
  }
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
