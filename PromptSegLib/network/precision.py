"""Where bfloat16 pays."""

from __future__ import annotations

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is fast here: CUDA from Ampere on, CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and bool(check and check())


def needs_scaling(device: torch.device) -> bool:
    """Whether training in mixed precision means float16, whose small gradients vanish unless the loss is scaled."""
    return device.type == "cuda" and not has_bfloat16(device)


def autocast(device: torch.device, scaled: bool = False) -> torch.autocast:
    """Mixed precision where it is fast, full precision elsewhere.

    :param scaled: the caller scales its loss where :func:`needs_scaling`, so float16 will do on older GPUs.
    """
    if scaled and needs_scaling(device):
        return torch.autocast(device.type, torch.float16)
    fast = has_bfloat16(device)
    return torch.autocast(device.type if fast else "cpu", torch.bfloat16, enabled=fast)


def on_cpu_casts() -> bool:
    """Whether the caller runs under an autocast of the CPU."""
    try:
        return torch.is_autocast_enabled("cpu")
    except TypeError:  # torch < 2.4
        return torch.is_autocast_cpu_enabled()
