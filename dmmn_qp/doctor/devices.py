"""Where to compute, how precisely, and in how many threads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dmmn_qp.doctor.findings import Finding, in_gib
from dmmn_qp.engines.cores import default_readers, default_threads
from dmmn_qp.machine import busy_cores, core_quota, cores_of_machine
from dmmn_qp.text import words_of

_DRIVER: Final = Path("/proc/driver/nvidia")


def check_devices() -> Iterator[Finding]:
    """Computes a little on each GPU, and says what the processor can do."""
    import torch

    from dmmn_qp.networks.devices import choose_bf16

    found = 0
    for name, device in _gpus(torch):
        found += 1
        try:
            side = torch.ones(64, 64, device=device)
            works = float((side @ side).sum()) == 64**3
        except Exception as error:  # of any kind: drivers have many
            yield _broken(name, words_of(error))
            continue
        if not works:
            yield _broken(name, "it computes wrong sums")
            continue
        bf16 = device.type == "cuda" and choose_bf16("auto", device)
        memory = f", {in_gib(torch.cuda.get_device_properties(device).total_memory)}" if device.type == "cuda" else ""
        yield Finding("device", "ok", f"{name}{memory}; computes in {'bf16' if bf16 else 'fp32'}")
    if not found and (shutil.which("nvidia-smi") or _DRIVER.exists()):
        yield Finding(
            "device",
            "warn",
            f"there is a driver of NVIDIA, but torch {torch.__version__} finds no GPU, so the processor computes",
            "see what nvidia-smi says; install torch for CUDA as pytorch.org says",
        )
    fast = choose_bf16("auto", torch.device("cpu"))
    how = "bf16, for which it has instructions" if fast else "fp32; bf16 would be emulated, ten times slower"
    yield Finding("device", "ok", f"cpu{'' if found else ', no GPU'}; computes in {how}", figures=(("gpus", found),))


def _gpus(torch: Any) -> Iterator[tuple[str, Any]]:
    """(name, device) of each GPU."""
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            yield f"cuda:{number} {torch.cuda.get_device_name(number)}", torch.device("cuda", number)
    if torch.backends.mps.is_available():
        yield "mps (Apple)", torch.device("mps")


def _broken(name: str, why: str) -> Finding:
    return Finding("device", "fail", f"{name} fails ({why})", "pass --device cpu, or mend the driver and restart")


def check_computing() -> Iterator[Finding]:
    """Cores, threads, and how busy others keep them."""
    cores, quota, busy = cores_of_machine(), core_quota(), busy_cores()
    threads = default_threads(beside_readers=True)
    share = "" if quota is None else f" (a container's share of {quota:g})"
    text = f"{cores} cores{share}; in epochs {threads} compute and {default_readers()} read patches"
    figures = (("cores", cores), ("quota", quota), ("threads", threads), ("busy", busy))
    if busy is None or busy <= cores - threads + 0.5:
        yield Finding("threads", "ok", text, figures=figures)
        return
    text, fewer = f"{text}; in the last minute {busy:.1f} were busy", max(1, round(cores - busy))
    way_out = (
        f"while that lasts, --threads {fewer} is faster" if fewer < threads else "wait, or end what keeps them busy"
    )
    yield Finding("threads", "warn", text, way_out, figures)
