"""The scan as it is written in torch where there is no GPU, each form by its own algorithm."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.c3.report import MissingPeerError
from benchmarks.ssm.problem import F32, Contender, Layer

__all__ = ["chunked", "head_loop", "parallel_scan", "state_update", "step_by_step"]


def _torch(n_threads: int) -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingPeerError("torch: pip install 'vortex-engine[peers]'") from error
    torch.set_num_threads(n_threads)
    return torch


def _tensors(torch: Any, layer: Layer) -> dict[str, Any]:
    return {name: torch.from_numpy(value) for name, value in layer.arguments().items()}


def _finish(torch: Any, y: Any, t: dict[str, Any]) -> Any:
    y = y + t["u"] * t["D"][:, None]
    return (y * torch.nn.functional.silu(t["z"]) if "z" in t else y).numpy()


def step_by_step(layer: Layer, n_threads: int) -> Contender:
    """All decays and inputs as [B, D, L, N], then a step after the other: what selective_scan_ref of
    state-spaces/mamba does.

    Raises:
        MissingPeerError: no torch.
    """
    torch = _torch(n_threads)
    t = _tensors(torch, layer)

    def run() -> Any:
        with torch.inference_mode():
            dt = torch.nn.functional.softplus(t["delta"] + t["delta_bias"][:, None])
            decay = torch.exp(torch.einsum("bdl,dn->bdln", dt, t["A"]))
            inputs = torch.einsum("bdl,bnl,bdl->bdln", dt, t["B"], t["u"])
            state = torch.zeros_like(inputs[:, :, 0])
            steps = []
            for i in range(inputs.shape[2]):
                state = decay[:, :, i] * state + inputs[:, :, i]
                steps.append(torch.einsum("bdn,bn->bd", state, t["C"][:, :, i]))
            return _finish(torch, torch.stack(steps, dim=2), t)

    return run


def parallel_scan(layer: Layer, n_threads: int) -> Contender:
    """mambapy's parallel scan of all states, called as transformers calls it.

    Raises:
        MissingPeerError: no torch or no mambapy.
    """
    torch = _torch(n_threads)
    try:
        pscan: Any = importlib.import_module("mambapy.pscan").pscan
    except ImportError as error:
        raise MissingPeerError("mambapy: pip install 'vortex-engine[peers]'") from error
    t = _tensors(torch, layer)

    def run() -> Any:
        with torch.inference_mode():
            dt = torch.nn.functional.softplus(t["delta"] + t["delta_bias"][:, None])
            decay = torch.exp(t["A"][None, :, None, :] * dt[..., None])
            inputs = dt[..., None] * t["B"].transpose(1, 2)[:, None] * t["u"][..., None]
            states: Any = pscan(decay.transpose(1, 2), inputs.transpose(1, 2))
            y = (states @ t["C"].transpose(1, 2).unsqueeze(-1)).squeeze(3).transpose(1, 2)
            return _finish(torch, y, t)

    return run


def state_update(layer: Layer, state: F32, n_threads: int) -> Contender:
    """One step of decoding with the state in place: what selective_state_update_ref of state-spaces/mamba does.

    Args:
        layer: of one step.
        state: [B, D, N], copied.

    Raises:
        MissingPeerError: no torch.
    """
    torch = _torch(n_threads)
    t = _tensors(torch, layer)
    held = torch.from_numpy(state.copy())
    x, delta, b, c, gate = (t[name][..., 0] for name in ("u", "delta", "B", "C", "z"))

    def run() -> Any:
        with torch.inference_mode():
            dt = torch.nn.functional.softplus(delta + t["delta_bias"])
            decay = torch.exp(dt[..., None] * t["A"])
            held.copy_(held * decay + dt[..., None] * b[:, None] * x[..., None])
            y = torch.einsum("bdn,bn->bd", held, c) + x * t["D"]
            return (y * torch.nn.functional.silu(gate)).numpy()

    return run


def chunked(layer: Layer, n_threads: int, chunk_size: int = 256) -> Contender:
    """transformers' torch form of Mamba-2's scan: attention inside chunks, states between them.

    Raises:
        MissingPeerError: no torch, or no transformers that has it.
    """
    torch = _torch(n_threads)
    try:
        module: Any = importlib.import_module("transformers.models.mamba2.modeling_mamba2")
        chunk_scan: Any = module.mamba2_chunk_scan
    except (ImportError, AttributeError) as error:
        raise MissingPeerError("transformers with mamba2_chunk_scan: pip install 'vortex-engine[peers]'") from error
    t = _tensors(torch, layer)
    n_heads = len(layer.A)
    batch, channels, length = layer.u.shape
    x = t["u"].transpose(1, 2).reshape(batch, length, n_heads, channels // n_heads)
    b, c = (t[name].transpose(1, 2).unsqueeze(2).contiguous() for name in ("B", "C"))
    dt = t["delta"].transpose(1, 2).contiguous()

    def run() -> Any:
        with torch.inference_mode():
            y: Any = chunk_scan(x, dt, t["A"], b, c, chunk_size, D=t["D"], dt_bias=t["delta_bias"], dt_softplus=True)
            return y.reshape(batch, length, channels).transpose(1, 2).numpy()

    return run


def head_loop(layer: Layer, n_threads: int) -> Contender:
    """Mamba-2's recurrence a step after the other, states [B, H, P, N].

    Raises:
        MissingPeerError: no torch.
    """
    torch = _torch(n_threads)
    t = _tensors(torch, layer)
    n_heads, n_state = len(layer.A), layer.B.shape[1]
    batch, channels, length = layer.u.shape
    x = t["u"].reshape(batch, n_heads, channels // n_heads, length)

    def run() -> Any:
        with torch.inference_mode():
            dt = torch.nn.functional.softplus(t["delta"] + t["delta_bias"][:, None])
            decay = torch.exp(dt * t["A"][:, None])
            state = torch.zeros(batch, n_heads, channels // n_heads, n_state)
            steps = []
            for i in range(length):
                inputs = (dt[:, :, None, i] * x[..., i])[..., None] * t["B"][:, None, None, :, i]
                state = decay[:, :, i, None, None] * state + inputs
                steps.append(torch.einsum("bhpn,bn->bhp", state, t["C"][..., i]))
            y = torch.stack(steps, dim=3) + x * t["D"][:, None, None]
            return y.reshape(batch, channels, length).numpy()

    return run
