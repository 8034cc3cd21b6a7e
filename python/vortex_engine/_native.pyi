from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

class Pool:
    """Threads and a SIMD level; results never depend on either."""
    def __init__(self, n_threads: int, simd: str) -> None: ...
    @property
    def n_threads(self) -> int: ...
    @property
    def simd(self) -> str: ...

class Pager:
    """Owns where tiles live, inside a hard byte budget; see csrc/c3/pager.h."""
    def __init__(
        self, budget_bytes: int, policy: str = "stable", prefetch_depth: int = 8, io_threads: int = 8
    ) -> None: ...
    def add_file(self, path: str) -> int: ...
    def add_matrix(self, name: str, file: int, base_offset: int, index: NDArray[np.uint64]) -> int: ...
    def start(self, sweep: Sequence[int], drafted: Sequence[int] = ()) -> None: ...
    def shape(self, handle: int) -> tuple[int, int]: ...
    def minimum_budget(self) -> int: ...
    def total_bytes(self) -> int: ...
    def verify(self, handle: int) -> None: ...
    def counters(self) -> dict[str, Any]: ...
    def reset_counters(self) -> None: ...
    def close(self) -> None: ...

def verify_shard(
    path: str,
    file_bytes: int,
    matrices: Sequence[tuple[str, int, NDArray[np.uint64]]],
    threads: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[int, str, list[tuple[str, int | None, int, str]]]: ...
def simd_levels() -> list[str]: ...
def crc32c(buffer: Buffer, crc: int = 0) -> int: ...
def start_writeback(fd: int, offset: int, n_bytes: int) -> None: ...
def encode_tiles(
    pool: Pool,
    slab: NDArray[np.uint8],
    rows: int,
    cols: int,
    dtype: int,
    codec: int,
    tiles: Sequence[tuple[int, int, int, int]],
) -> list[tuple[bytes, bytes, int, int]]: ...

class EncodedGroup:
    def encode(
        self,
        pool: Pool,
        slab: NDArray[np.uint8],
        rows: int,
        cols: int,
        dtype: int,
        codec: int,
        tiles: Sequence[tuple[int, int, int, int]],
    ) -> None: ...
    def tiles(self) -> list[tuple[int, int, int, int, int, int]]: ...
    def parts(self) -> list[memoryview]: ...
    def extend_crc(self, crc: int) -> int: ...

def decode_tile(codec: int, dtype: int, n_rows: int, n_cols: int, prefix: bytes, residual: bytes) -> NDArray[Any]: ...
def paged_linear(
    pool: Pool,
    pager: Pager,
    handles: Sequence[int],
    x: NDArray[np.float32],
    biases: Sequence[NDArray[np.float32] | None],
    activations: str = "float",
    planes: str = "all",
) -> list[NDArray[np.float32]]: ...
def paged_linear_transposed(pool: Pool, pager: Pager, handle: int, x: NDArray[np.float32]) -> NDArray[np.float32]: ...
def embed_rows(
    pool: Pool, pager: Pager, handle: int, ids: NDArray[np.int64], planes: str = "all"
) -> NDArray[np.float32]: ...
def rms_norm(pool: Pool, x: NDArray[np.float32], weight: NDArray[np.float32], eps: float) -> NDArray[np.float32]: ...
def rope_table(
    positions: NDArray[np.int64], inv_freq: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
def rope(
    pool: Pool, x: NDArray[np.float32], cos: NDArray[np.float32], sin: NDArray[np.float32]
) -> NDArray[np.float32]: ...
def kv_append(
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    k_cache: NDArray[np.float32],
    v_cache: NDArray[np.float32],
    pos: int,
) -> None: ...
def kv_move(k_cache: NDArray[np.float32], v_cache: NDArray[np.float32], source: int, target: int) -> None: ...
def attend(
    pool: Pool,
    q: NDArray[np.float32],
    k_cache: NDArray[np.float32],
    v_cache: NDArray[np.float32],
    pos: int,
    window: int,
    scale: float,
) -> NDArray[np.float32]: ...

class DecoderLayer:
    """A layer's matrices and vectors, checked against a pager."""
    def __init__(self, pager: Pager, layer: object) -> None: ...

def decoder_layer(
    pool: Pool,
    pager: Pager,
    layer: DecoderLayer,
    h: NDArray[np.float32],
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    k_cache: NDArray[np.float32],
    v_cache: NDArray[np.float32],
    pos: int,
    depths: NDArray[np.int64] | None = None,
) -> None: ...
def ssm_scan(
    pool: Pool,
    u: NDArray[np.float32],
    delta: NDArray[np.float32],
    A: NDArray[np.float32],
    B: NDArray[np.float32],
    C: NDArray[np.float32],
    D: NDArray[np.float32] | None,
    z: NDArray[np.float32] | None,
    delta_bias: NDArray[np.float32] | None,
    delta_softplus: bool,
    initial_state: NDArray[np.float32] | None,
    last_state: NDArray[np.float32] | None,
    cu_seqlens: NDArray[np.int64] | None,
    state_indices: NDArray[np.int64] | None,
) -> NDArray[np.float32]: ...
def ssm_scan_gradient(
    pool: Pool,
    grad_y: NDArray[np.float32],
    grad_last: NDArray[np.float32] | None,
    u: NDArray[np.float32],
    delta: NDArray[np.float32],
    A: NDArray[np.float32],
    B: NDArray[np.float32],
    C: NDArray[np.float32],
    D: NDArray[np.float32] | None,
    z: NDArray[np.float32] | None,
    delta_bias: NDArray[np.float32] | None,
    delta_softplus: bool,
    initial_state: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float32] | None, ...]: ...
def causal_conv1d(
    pool: Pool,
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    activation: str | None,
    initial_state: NDArray[np.float32] | None,
    last_state: NDArray[np.float32] | None,
    cu_seqlens: NDArray[np.int64] | None,
    state_indices: NDArray[np.int64] | None,
) -> NDArray[np.float32]: ...
def causal_conv1d_gradient(
    pool: Pool,
    grad_y: NDArray[np.float32],
    grad_last: NDArray[np.float32] | None,
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    activation: str | None,
    initial_state: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float32] | None, ...]: ...

class LavaBank:
    """The memory of a LAVA layer; see csrc/lava/bank.h."""
    def __init__(
        self,
        pool: Pool,
        dim: int,
        value_dim: int,
        capacity: int,
        nlist: int,
        contents: str,
        ema: float,
        half_life: float,
        key_basis: NDArray[np.float32],
        value_basis: NDArray[np.float32],
    ) -> None: ...
    @staticmethod
    def from_state(
        pool: Pool,
        state: dict[str, NDArray[Any]],
        dim: int,
        value_dim: int,
        capacity: int,
        nlist: int,
        contents: str,
        ema: float,
        half_life: float,
    ) -> LavaBank: ...
    def state(self) -> dict[str, NDArray[Any]]: ...
    def export(self) -> dict[str, NDArray[Any]]: ...
    def insert(
        self,
        pool: Pool,
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        positions: NDArray[np.int64],
        importance: NDArray[np.float32],
    ) -> NDArray[np.int64]: ...
    def remove(self, ids: NDArray[np.int64]) -> None: ...
    def set_importance(self, ids: NDArray[np.int64], importance: NDArray[np.float32]) -> None: ...
    def begin(self) -> int: ...
    def commit(self, mark: int) -> None: ...
    def rollback(self, mark: int) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    @property
    def n_bytes(self) -> int: ...

def lava_search(
    pool: Pool, bank: LavaBank, q: NDArray[np.float32], nprobe: int, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
def lava_read(
    pool: Pool,
    bank: LavaBank,
    q: NDArray[np.float32],
    scale: NDArray[np.float32],
    nprobe: int,
    k: int | None,
    tail: bool,
    recent_keys: NDArray[np.float32],
    recent_values: NDArray[np.float32],
    recent_range: NDArray[np.int64],
    return_bound: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]: ...
def exp2(pool: Pool, x: NDArray[np.float32]) -> NDArray[np.float32]: ...
def softplus(pool: Pool, x: NDArray[np.float32]) -> NDArray[np.float32]: ...
def rms_norm_gradient(
    pool: Pool, grad_y: NDArray[np.float32], x: NDArray[np.float32], weight: NDArray[np.float32], eps: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
def swiglu_gradient(
    pool: Pool, grad_y: NDArray[np.float32], gate: NDArray[np.float32], up: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
def swiglu(pool: Pool, gate: NDArray[np.float32], up: NDArray[np.float32]) -> NDArray[np.float32]: ...
def token_surprises(pool: Pool, logits: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]: ...
def entropies(pool: Pool, logits: NDArray[np.float32]) -> NDArray[np.float32]: ...
def bad_verify(
    pool: Pool,
    draft_ids: NDArray[np.int64],
    target_logits: NDArray[np.float32],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    position: int,
) -> tuple[int, int]: ...

class NgramDrafter:
    """Drafts from a sequence's own n-grams; see csrc/ngram/drafter.h."""
    def __init__(self, max_tokens: int, memory: float = ...) -> None: ...
    def push(self, ids: Sequence[int] | NDArray[np.int64]) -> None: ...
    def draft(self, max_tokens: int, min_probability: float = 0.0) -> tuple[list[int], list[float]]: ...
    def step(
        self, ids: Sequence[int] | NDArray[np.int64], max_tokens: int, min_probability: float = 0.0
    ) -> tuple[list[int], list[float]]: ...
    def separate(self) -> None: ...
    def freeze(self) -> None: ...
    def restart(self) -> None: ...
    def rates(self) -> list[float]: ...
    @property
    def bytes(self) -> int: ...
