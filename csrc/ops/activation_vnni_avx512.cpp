// The integer products of the AVX-512 level on processors that have VNNI: the same integers, so the same bits.
#pragma GCC target("avx512vnni")
#define VX_LEVEL_AVX512
#define VX_VNNI
#include "ops/activation_kernels.inl.h"
#include "ops/tile_kernels.h"

namespace vx {

void multiply_activations_vnni(PanelReader& reader, int64_t n_cols, const ActivationRows& rows, int64_t n_rows,
                               float* acc) {
  avx512vnni::multiply_activations_of(reader, n_cols, rows, n_rows, acc);
}

}  // namespace vx
