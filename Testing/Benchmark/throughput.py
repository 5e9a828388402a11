"""Speed and memory of PUNet, SwinUNETR and DynUNet at the same patch, and their share of what the machine can do.

``python Testing/Benchmark/throughput.py [--device cuda] [--patch 96 96 96]`` prints a Markdown table. One training step
is forward, Dice + cross-entropy of ``--classes`` classes, backward and AdamW, in the precision that pretraining uses on
the device; one inference is forward alone. Arithmetic: what torch's flop counter sees, of attention as it is written
down. Peak: what a 3 x 3 x 3 convolution of 64 channels in that precision reaches on this device now, forward and
backward together, so that the share is of what is possible here, not of a data sheet. Memory: the peak of torch's
allocator on CUDA; elsewhere the growth of the process's peak resident memory, each network in a process of its own.
Seeds are fixed; medians of ``--steps`` steps after three that do not count. ``--clock processor`` counts processor
seconds, for a machine that has other work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Callable, Iterator

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from PromptSegLib.models.backbone import choose_device
from PromptSegLib.network import softmax
from PromptSegLib.network.convolution import Convolution
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

    def look() -> None:
        with torch.inference_mode(), autocast(device):
            net(image)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with _attention_written_down(), FlopCounterMode(display=False) as counter:
        step()
    seconds = median(step, options.steps, device, options.clock)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    held = torch.cuda.max_memory_allocated() if device.type == "cuda" else grown
    net.eval()
    with _attention_written_down(), FlopCounterMode(display=False) as looked, autocast(device):
        net(image)
    return {
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "seconds": seconds,
        "flop": float(counter.get_total_flops()),
        "bytes": float(held),
        "inference": median(look, options.steps, device, options.clock),
        "inference flop": float(looked.get_total_flops()),
        "peak": peak(device, options.clock),
    }


@contextlib.contextmanager
def _attention_written_down() -> Iterator[None]:
    """The flop counter does not see into torch's kernel for a CPU's attention."""
    kernels, softmax.kernels = softmax.kernels, lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        softmax.kernels = kernels


def median(act: Callable[[], None], count: int, device: torch.device, clock: str = "wall") -> float:
    """Seconds of one ``act``, of ``count`` after two that do not count."""
    now = time.process_time if clock == "processor" else time.perf_counter

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    seconds = []
    for _ in range(2 + count):
        wait()
        begin = now()
        act()
        wait()
        seconds.append(now() - begin)
    return statistics.median(seconds[2:])


def peak(device: torch.device, clock: str = "wall", extent: int = 32) -> float:
    """Floating-point operations per second of a convolution in the precision of training, forward and backward."""
    convolution = Convolution(64, 64, 3, padding=1, bias=False).to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    shape = (2, 64, extent, extent, extent)
    image = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last_3d)

    def act() -> None:
        with autocast(device, scaled=True):
            seen = image.to(torch.get_autocast_dtype(device.type)) if torch.is_autocast_enabled(device.type) else image
            out = convolution(seen.requires_grad_())
        out.backward(out.detach())

    return 3 * 2 * 27 * 64 * 64 * 2 * extent**3 / median(act, 6, device, clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--patch", nargs=3, type=int, default=[32, 64, 64], metavar=("Z", "Y", "X"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=13)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
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
    peaks = statistics.median(row["peak"] for row in rows.values()) / 1e9
    print(
        f"Batch {options.batch}, patch {size}, {options.classes} classes, {what}, {options.clock} seconds; a "
        f"convolution reaches {peaks:.0f} GFLOP/s. Ratios are to SwinUNETR.\n"
    )
    titles = ["network", "million parameters", "steps/s", "ratio", "GFLOP/step", "GFLOP/s", "share of peak", "GiB"]
    titles += ["inferences/s", "ratio", "share of peak"]
    print(f"| {' | '.join(titles)} |")
    print("|---" * len(titles) + "|")
    for name, row in rows.items():
        ratio = rows["SwinUNETR"]["seconds"] / row["seconds"]
        looked = rows["SwinUNETR"]["inference"] / row["inference"]
        rate, seen = row["flop"] / row["seconds"], row["inference flop"] / row["inference"]
        print(
            f"| {name} | {row['parameters'] / 1e6:.1f} | {1 / row['seconds']:.2f} | {ratio:.2f} "
            f"| {row['flop'] / 1e9:.0f} | {rate / 1e9:.0f} | {rate / row['peak']:.0%} | {row['bytes'] / 2**30:.2f} "
            f"| {1 / row['inference']:.2f} | {looked:.2f} | {seen / row['peak']:.0%} |"
        )


if __name__ == "__main__":
    main()
