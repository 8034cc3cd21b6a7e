"""What `quantization_config` says about a packed model, and what a caller may choose when loading one."""

from __future__ import annotations

from typing import Any

from transformers.quantizers import auto
from transformers.utils.quantization_config import QuantizationConfigMixin

from vortex_engine.c3.layout import ACTIVATIONS, FORMAT, recorded_activations
from vortex_engine.ops import context
from vortex_engine.profile import parse_bytes

__all__ = ["C3Config"]

_POLICIES = (None, "stable", "lru")


class C3Config(QuantizationConfigMixin):
    """Run-time options of a packed model: `from_pretrained(DIR, quantization_config=C3Config(ram_budget="2GiB"))`.

    Args:
        ram_budget: bytes of compressed weights in RAM, an int or a string such as "2GiB"; None: all if they fit in half
            of the free RAM, else that half.
        threads: of the products; None for every core this process may use. Results do not depend on it.
        policy: "stable", "lru", or None for what fits: "lru" where experts are routed to, else "stable".
        activations: "float" or "int8" for products with int8 and int4 tiles (not those of a Conv1D); None for what the
            model was packed with.
        format, codec: of the packed model; read from its config.json, never chosen here.

    Raises:
        ValueError: a wrong argument.
    """

    def __init__(
        self,
        ram_budget: int | str | None = None,
        *,
        threads: int | None = None,
        policy: str | None = None,
        activations: str | None = None,
        format: int = FORMAT,
        codec: str | None = None,
        **kwargs: Any,
    ) -> None:
        unknown = sorted(set(kwargs) - {"quant_method"})
        if unknown:
            known = "ram_budget, threads, policy and activations"
            raise ValueError(f"[C3Config] {unknown[0]!r} is not an option; there are {known}")
        if policy not in _POLICIES:
            raise ValueError(f"[C3Config] policy must be 'stable', 'lru' or None, got {policy!r}")
        if activations not in (None, *ACTIVATIONS):
            raise ValueError(f"[C3Config] activations must be 'float', 'int8' or None, got {activations!r}")
        if threads is not None and not 1 <= threads <= context.MAX_THREADS:
            raise ValueError(f"[C3Config] threads must be from 1 to {context.MAX_THREADS}, got {threads!r}")
        self.quant_method: Any = "c3"
        self.format = format
        self.codec = codec
        self.ram_budget_bytes = None if ram_budget is None else parse_bytes(ram_budget, "ram_budget")
        self.threads = threads
        self.policy = policy
        self.activations = activations

    def get_loading_attributes(self) -> dict[str, Any]:
        """The options a caller's configuration carries over to the packed model's."""
        chosen = {name: getattr(self, name) for name in ("ram_budget_bytes", "threads", "policy")}
        return chosen if self.activations is None else {**chosen, "activations": self.activations}

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds: run-time options are not written."""
        return {"quant_method": "c3", "format": self.format, "codec": self.codec} | recorded_activations(
            self.activations or "float"
        )


auto.register_quantization_config("c3")(C3Config)
# transformers takes a caller's options over into a packed model's configuration only for classes it lists here.
auto.LOADING_ATTRIBUTES_CONFIG_TYPES = (*auto.LOADING_ATTRIBUTES_CONFIG_TYPES, C3Config)
