#pragma once

#include "c3/codec.h"

namespace vx {

// TileCodec::encode of `int8` and `int4`: false when a weight is not finite.
bool encode_int8(const Weights& weights, EncodedTile* tile);
bool encode_int4(const Weights& weights, EncodedTile* tile);

}  // namespace vx
