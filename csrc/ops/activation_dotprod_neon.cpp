// The integer products of the NEON level on processors that have dot product instructions: the same integers, so the
// same bits.
#define VX_LEVEL_NEON
#define VX_DOTPROD
#include "ops/activation_kernels.inl.h"
#include "ops/tile_kernels.h"

namespace vx {

void multiply_activations_dotprod(PanelReader& reader, int64_t n_cols, const ActivationRows& rows, int64_t n_rows,
                                  float* acc) {
  neondotprod::multiply_activations_of(reader, n_cols, rows, n_rows, acc);
}

}  // namespace vx
