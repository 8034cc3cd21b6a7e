"""Numbers and names of packed format 1, shared by the writer and the reader; `csrc/c3/FORMAT.md` explains them."""

from __future__ import annotations

FORMAT = 1

ALIGNMENT = 4096  # file offset of every tile range; unit of direct I/O
PANEL_ROWS = 64
BLOCK_COLS = 8
MAX_TILE_BYTES = 1 << 20
GROUP_TILES = 8  # tiles whose prefixes, then residuals, lie together

MANIFEST_NAME = "c3.json"
CONFIG_NAME = "config.json"
GENERATION_CONFIG_NAME = "generation_config.json"
TOKENIZER_NAME = "tokenizer.json"
WEIGHT_MAP_NAME = "model.safetensors.index.json"

TILES_SUFFIX = ".c3"
INDEX_SUFFIX = ".c3_index"
INDEX_COLUMNS = 8

CODEC_IDS = {"raw": 0, "exact": 1, "int8": 2, "int4": 3, "lz4": 4, "exact12": 5, "dense": 6}
LOSSY_CODECS = frozenset({"int8", "int4"})
MIXED = "mixed"  # what a model is called whose matrices have codecs of their own
ACTIVATIONS = ("float", "int8")  # what a product with tiles of the lossy codecs takes
INT_GROUP_COLS = 32  # columns that share a scale; tiles of the lossy codecs start at a group
DTYPE_IDS = {"bf16": 1, "f16": 2, "f32": 3}
DTYPE_NAMES = {number: name for name, number in DTYPE_IDS.items()}
ITEM_BYTES = {"bf16": 2, "f16": 2, "f32": 4}
SAFETENSORS_DTYPES = {"BF16": "bf16", "F16": "f16", "F32": "f32"}  # what may become a matrix of tiles


def split_cols(codec: str) -> int:
    """What the first column of every tile of a codec is a multiple of."""
    return INT_GROUP_COLS if codec in LOSSY_CODECS else BLOCK_COLS


def shard_name(number: int, n_shards: int) -> str:
    """File name of shard `number`, counted from 1."""
    return f"model-{number:05d}-of-{n_shards:05d}.safetensors"


def align_up(n_bytes: int, alignment: int = ALIGNMENT) -> int:
    """`n_bytes` rounded up to a multiple of `alignment`."""
    return -(-n_bytes // alignment) * alignment


def recorded_activations(activations: str) -> dict[str, object]:
    """What configuration and manifest say about activations: nothing where they are plain."""
    return {} if activations == "float" else {"activations": activations}


def quantization_config(codec: str, activations: str) -> dict[str, object]:
    """What `config.json` of a packed model says about it."""
    return {"quant_method": "c3", "format": FORMAT, "codec": codec, **recorded_activations(activations)}
