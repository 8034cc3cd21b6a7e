#pragma once

#include "c3/codec.h"

namespace vx {

// TileCodec::encode of `exact`: false when the tile would not be smaller than raw.
bool encode_exact(const Weights& weights, EncodedTile* tile);

}  // namespace vx
