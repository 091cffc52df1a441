"""How soon `dmmn-qp serve` answers: a region of the demo predicted anew, again elsewhere, and once more.

Usage, from the repository: python -m benchmarks.serving [SIDE_PX]

Prints seconds from the request to the first reply that the work itself sends (log or progress) and to its end, and the
seconds of processor time that the process took, which say more where the machine is shared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
DEMO = REPOSITORY / "examples" / "demo"
SLIDE = DEMO / "slides" / "val-1.tif"
ENDS = ("done", "failed", "cancelled", "refused")


class Process:
    """`dmmn-qp serve` on the demo, with its model."""

    def __init__(self, folder: str) -> None:
        command = [sys.executable, "-m", "dmmn_qp", "serve", str(DEMO), "--model", str(REPOSITORY / "models" / "demo")]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        self._last = 0
        self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, op: str, **content: Any) -> tuple[float, float, float]:
        """Seconds to the first reply of the work, and to the end, and of processor time."""
        assert self.process.stdin is not None
        self._last += 1
        before, began, first = self._processor_s(), time.perf_counter(), None
        self.process.stdin.write(json.dumps({"id": self._last, "op": op, **content}).encode() + b"\n")
        self.process.stdin.flush()
        while True:
            reply, seconds = self._reply(), time.perf_counter() - began
            if reply["event"] in ("log", "progress", *ENDS):
                first = first or seconds
            if reply["event"] in ENDS:
                assert reply["event"] == "done", reply
                return first or seconds, seconds, self._processor_s() - before

    def _processor_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """Ends it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0


def main() -> None:
    """Measures and prints."""
    side = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    with tempfile.TemporaryDirectory() as folder:
        process = Process(folder)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; region of {side} x {side} px")
        print(f"{'':<44}{'first reply s':>14}{'done s':>9}{'cpu s':>9}")
        asked = {
            "load": "the model is loaded",
            1000: "a region",
            1400: "another region",
            1401: "a corrected region, anew",
        }
        for place, what in [*asked.items(), (1401, "the same again")]:
            region = {"slide": str(SLIDE), "region": [place, 1000, side, side]}
            found = process.ask("load") if place == "load" else process.ask("predict", **region)
            print(f"{what:<44}{found[0]:>14.2f}{found[1]:>9.2f}{found[2]:>9.2f}")
        process.end()


if __name__ == "__main__":
    main()
