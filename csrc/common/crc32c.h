// CRC-32C (Castagnoli), the checksum of tiles, headers and files.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vx {

// Checksum of n bytes; crc is the checksum of what came before them, so crc32c(b, m, crc32c(a, n)) is that of a + b.
// Uses the instruction of SSE4.2 or of Arm where the machine has it.
uint32_t crc32c(const void* data, size_t n, uint32_t crc = 0);

// The checksum of a + b from those of a and of b, which has n bytes, without reading either.
uint32_t crc32c_joined(uint32_t crc_a, uint32_t crc_b, size_t n);

// The same function as crc32c from tables alone.
uint32_t crc32c_portable(const void* data, size_t n, uint32_t crc = 0);

}  // namespace vx
