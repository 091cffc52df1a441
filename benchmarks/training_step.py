"""How fast a training step is: a width-32 DMMN-M3 on targets of 256 px, in fp32 and bf16, beside its arithmetic floor.

    python -m benchmarks.training_step [--device cuda] [--batch-size 8] [--tflops 790]

The floor is three times the forward pass's operations (one forward, two backward) at the rate of the device: with
``--tflops`` as its maker states it, else that of a large matrix product measured here. Patches are random; reading them
is what `benchmarks.training_input` measures.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dmmn_qp.networks import build_network
from dmmn_qp.networks.describe import describe
from dmmn_qp.networks.devices import autocast, choose_device
from dmmn_qp.networks.losses import partial_cross_entropy
from dmmn_qp.networks.stem import Stemmed

CLASSES, WIDTH, SIZE = 7, 32, 256


def synchronised() -> float:
    """Seconds, once all that was asked of the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def matrix_tflops(device: torch.device, bf16: bool) -> float:
    """Best rate of a product of large matrices."""
    side = 8192 if device.type == "cuda" else 1536
    a = torch.rand(side, side, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    rates = []
    for _ in range(4):
        start = synchronised()
        a @ a
        rates.append(2 * side**3 / (synchronised() - start) / 1e12)
    return max(rates)


def seconds_per_step(batch_size: int, device: torch.device, bf16: bool, steps: int) -> float:
    """Median time of an optimiser step."""
    network = build_network("dmmn-m3", classes=CLASSES, width=WIDTH, magnifications=3, size_px=SIZE)
    network = on_device(network, device)
    optimizer = torch.optim.SGD(network.parameters(), lr=5e-5, momentum=0.99, weight_decay=1e-4)
    images = [pixels(batch_size, device) for _ in range(3)]
    labels = torch.randint(0, CLASSES + 1, (batch_size, SIZE, SIZE), device=device)
    weights = torch.ones(CLASSES, device=device)
    return median_seconds(lambda: optimiser_step(network, optimizer, images, labels, weights, bf16), steps)


def optimiser_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Sequence[Tensor],
    labels: Tensor,
    weights: Tensor,
    bf16: bool,
) -> None:
    """Learns from one batch; all of it is on one device."""
    with autocast(labels.device, bf16):
        logits = network(images)
    optimizer.zero_grad(set_to_none=True)
    partial_cross_entropy(logits, labels, weights, "patch").backward()
    optimizer.step()


def median_seconds(work: Callable[[], object], times: int) -> float:
    """Median time of some work, after two times that do not count."""
    taken = []
    for _ in range(times + 2):
        start = synchronised()
        work()
        taken.append(synchronised() - start)
    return statistics.median(taken[2:])


def on_device(network: Stemmed, device: torch.device) -> Stemmed:
    """The network where it computes, channels last as in `train` and `predict`."""
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def pixels(batch_size: int, device: torch.device) -> Tensor:
    """A batch of random images."""
    image = torch.rand(batch_size, 3, SIZE, SIZE, device=device)
    return image.contiguous(memory_format=torch.channels_last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--batch-size", type=int, default=None, help="default 32 on a GPU, 2 on a CPU")
    parser.add_argument("--steps", type=int, default=None, help="default 20 on a GPU, 3 on a CPU")
    parser.add_argument("--tflops", type=float, default=None, help="bf16 rate of the device as its maker states it")
    given = parser.parse_args()
    device = choose_device(given.device)
    on_gpu = device.type == "cuda"
    batch_size, steps = given.batch_size or (32 if on_gpu else 2), given.steps or (20 if on_gpu else 3)
    gflop = 3 * describe("dmmn-m3", classes=CLASSES, width=WIDTH).gflop_per_target
    name = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}; width {WIDTH}, batches of {batch_size}, {gflop:.0f} GFLOP a target")
    print(f"{'precision':<10}{'s a step':>10}{'targets/s':>11}{'TFLOP/s':>9}{'floor targets/s':>17}{'of floor':>10}")
    first = None
    for precision in ("fp32", "bf16"):
        bf16 = precision == "bf16"
        seconds = seconds_per_step(batch_size, device, bf16, steps)
        rate = batch_size / seconds
        first = first or rate
        peak = given.tflops if given.tflops and bf16 else matrix_tflops(device, bf16)
        floor = peak * 1000 / gflop
        figures = f"{seconds:>10.3f}{rate:>11.2f}{rate * gflop / 1000:>9.3f}{floor:>17.2f}{rate / floor:>10.2f}"
        print(f"{precision:<10}{figures}   {rate / first:.2f} x fp32")


if __name__ == "__main__":
    main()
