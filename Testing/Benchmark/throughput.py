"""Training speed and memory of PUNet, SwinUNETR and DynUNet at the same patch, and their share of the device's peak.

``python Testing/Benchmark/throughput.py [--device cuda] [--patch 96 96 96]`` prints a Markdown table. One step is
forward, Dice + cross-entropy of ``--classes`` classes, backward and AdamW, in the precision that pretraining uses
on the device. Arithmetic: what torch's flop counter sees in forward and backward. Peak: what one large matrix product
in that precision reaches on this device now, so that the share is of what is possible here, not of a data sheet.
Memory: the peak of torch's allocator on CUDA; elsewhere the growth of the process's peak resident memory, each network
in a process of its own. Seeds are fixed; medians of ``--steps`` steps after three that do not count.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from PromptSegLib.models.backbone import choose_device
from PromptSegLib.network.precision import autocast
from PromptSegLib.network.punet import PUNet
from PromptSegLib.pretraining.objective import segmentation_loss
from PromptSegLib.specializing.adaptations import Prompted, adaptation

NETWORKS = ("PUNet", "SwinUNETR", "DynUNet")


def network(name: str, classes: int, patch: tuple[int, int, int]) -> nn.Module:
    """PUNet with the prompts of its classes, as pretraining trains it, or a network as the protocol has it."""
    generator = torch.Generator().manual_seed(0)
    if name == "PUNet":
        return Prompted(PUNet(), classes, "full", generator)
    return adaptation(name, None, classes, generator, patch)


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    device = choose_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    net = network(name, options.classes, tuple(options.patch)).to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    image = torch.randn(options.batch, 1, *options.patch, device=device)
    image = image.contiguous(memory_format=torch.channels_last_3d)
    label = torch.randint(0, options.classes + 1, (options.batch, *options.patch), device=device)
    known = torch.ones(options.batch, options.classes, dtype=torch.bool, device=device)

    def step() -> None:
        with autocast(device, scaled=True):
            logits = net(image)
        segmentation_loss(logits.float(), label, known).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with FlopCounterMode(display=False) as counter:
        step()
    for _ in range(2):
        step()
    wait()
    seconds = []
    for _ in range(options.steps):
        begin = time.perf_counter()
        step()
        wait()
        seconds.append(time.perf_counter() - begin)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "seconds": statistics.median(seconds),
        "flop": float(counter.get_total_flops()),
        "bytes": float(torch.cuda.max_memory_allocated() if device.type == "cuda" else grown),
        "peak": peak(device),
    }


def peak(device: torch.device, size: int = 0) -> float:
    """Floating-point operations per second of a large matrix product in the precision of training."""
    size = size or (8192 if device.type == "cuda" else 2048)
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    seconds = []
    with autocast(device, scaled=True):
        a, b = (a @ b).to(torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled() else a.dtype), b.clone()
        b = b.to(a.dtype)
        for _ in range(8):
            if device.type == "cuda":
                torch.cuda.synchronize()
            begin = time.perf_counter()
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / statistics.median(seconds[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--patch", nargs=3, type=int, default=[64, 64, 64], metavar=("Z", "Y", "X"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--classes", type=int, default=13)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--network", choices=NETWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.network:
        print(json.dumps(measure(options.network, options)))
        return
    rows = {}
    for name in NETWORKS:
        command = [sys.executable, __file__, *sys.argv[1:], "--network", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        rows[name] = json.loads(done.stdout.splitlines()[-1])
    device = choose_device(options.device)
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    size = " x ".join(str(each) for each in options.patch)
    print(f"Training steps of batch {options.batch}, patch {size}, {options.classes} classes, {what}:\n")
    titles = ("network", "million parameters", "steps/s", "ratio", "GFLOP/step", "share of peak", "GiB")
    print(f"| {' | '.join(titles)} |")
    print("|---" * len(titles) + "|")
    for name, row in rows.items():
        ratio = rows["SwinUNETR"]["seconds"] / row["seconds"]
        share = row["flop"] / row["seconds"] / row["peak"]
        print(
            f"| {name} | {row['parameters'] / 1e6:.1f} | {1 / row['seconds']:.2f} | {ratio:.2f} "
            f"| {row['flop'] / 1e9:.0f} | {share:.0%} | {row['bytes'] / 2**30:.2f} |"
        )


if __name__ == "__main__":
    main()
