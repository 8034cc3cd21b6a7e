"""The ceilings that a machine sets to decoding, and the one that binds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EXPLAINED", "Bound", "Rates", "Speed", "find_bound"]

# A speed under this share of the lowest ceiling is not explained by it.
EXPLAINED = 0.6


@dataclass(frozen=True)
class Rates:
    """What the machine does on its own, measured.

    Attributes:
        disk_gb_s: reads past the page cache.
        memory_gb_s: reads from memory by the threads of the run.
        compute_gb_s: compressed bytes multiplied by the same threads while they stay in a cache.
        threads: how many.
    """

    disk_gb_s: float
    memory_gb_s: float
    compute_gb_s: float
    threads: int

    def disk_ceiling(self, missing_bytes: float) -> float | None:
        """Tokens/s when each reads `missing_bytes` from disk; None when there are none."""
        return self.disk_gb_s * 1e9 / missing_bytes if missing_bytes else None

    def memory_ceiling(self, total_bytes: float) -> float:
        """Tokens/s when each reads `total_bytes` from memory."""
        return self.memory_gb_s * 1e9 / total_bytes

    def compute_ceiling(self, total_bytes: float) -> float:
        """Tokens/s when each multiplies with `total_bytes` of compressed weights."""
        return self.compute_gb_s * 1e9 / total_bytes


@dataclass(frozen=True)
class Speed:
    """One measured run.

    Attributes:
        tokens_per_s: of decoding.
        total_bytes: compressed bytes that a token multiplies with.
        missing_bytes: of them, read from disk for a token.
    """

    tokens_per_s: float
    total_bytes: int
    missing_bytes: float


@dataclass(frozen=True)
class Bound:
    """What limits decoding: `bound` is disk, memory or compute. The disk's ceiling is None where nothing is missing."""

    bound: str
    ceiling_tokens_per_s: float
    share_of_ceiling: float
    disk_ceiling_tokens_per_s: float | None
    memory_ceiling_tokens_per_s: float
    compute_ceiling_tokens_per_s: float
    disk_read_gb_s: float
    memory_read_gb_s: float
    compute_gb_s: float
    words: str


def find_bound(speed: Speed, rates: Rates) -> Bound:
    """Say what bounds decoding: the lowest of the ceilings of disk, memory and computing."""
    disk = rates.disk_ceiling(speed.missing_bytes)
    memory, compute = rates.memory_ceiling(speed.total_bytes), rates.compute_ceiling(speed.total_bytes)
    ceilings = {"memory": memory, "compute": compute} | ({} if disk is None else {"disk": disk})
    name, ceiling = min(ceilings.items(), key=lambda pair: pair[1])
    share = speed.tokens_per_s / ceiling
    total_mb, missing_mb = speed.total_bytes / 1e6, speed.missing_bytes / 1e6
    words = {
        "disk": f"disk: {missing_mb:.1f} MB a token are not in RAM and the disk reads {rates.disk_gb_s:.2f} GB/s, "
        f"so {ceiling:.2f} tokens/s at most",
        "memory": f"memory: every token reads {total_mb:.1f} MB of weights at {rates.memory_gb_s:.1f} GB/s, "
        f"so {ceiling:.2f} tokens/s at most",
        "compute": f"computing: {rates.threads} threads decode and multiply {rates.compute_gb_s:.1f} GB/s of packed "
        f"weights, and every token takes {total_mb:.1f} MB, so {ceiling:.2f} tokens/s at most",
    }[name]
    return Bound(
        bound=name,
        ceiling_tokens_per_s=ceiling,
        share_of_ceiling=share,
        disk_ceiling_tokens_per_s=disk,
        memory_ceiling_tokens_per_s=memory,
        compute_ceiling_tokens_per_s=compute,
        disk_read_gb_s=rates.disk_gb_s,
        memory_read_gb_s=rates.memory_gb_s,
        compute_gb_s=rates.compute_gb_s,
        words=words,
    )
