"""Where bfloat16 pays."""

from __future__ import annotations

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is fast here: CUDA from Ampere on, CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and bool(check and check())


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision where it is fast, full precision elsewhere."""
    fast = has_bfloat16(device)
    return torch.autocast(device.type if fast else "cpu", torch.bfloat16, enabled=fast)
