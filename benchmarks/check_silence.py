"""How long commands say nothing on a terminal: each runs on a pseudo-terminal, and the longest silence is printed.

A check for people, not a test: a busy machine makes everything wait.
"""

from __future__ import annotations

import argparse
import os
import pty
import select
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

COMMANDS = """
extract {source} --base mobilenetv2 --weights none --image-size 96 --cache {at}/cache --dry-run
extract {source} --base mobilenetv2 --weights none --image-size 96 --cache {at}/cache
extract {source} --base mobilenetv2 --weights none --image-size 96 --cache {at}/cache
fit-head {at}/cache --clf logreg --out {at}/head
fit-head {at}/cache --clf logreg --tune --out {at}/tuned
fit-head {at}/cache --clf dense --out {at}/dense
compare {at}/cache
compare {at}/cache --tune --fresh
predict {at}/head {source}
evaluate {at}/head {source}
export {at}/head --to {at}/m.keras
export {at}/head --to {at}/m.tflite
fine-tune {at}/dense --last 2 --epochs 1 --out {at}/fine
report {at}/cache
audit {at}/cache
advise {at}/cache
neighbors {at}/cache class0/0000.jpg
info {at}/cache
verify {at}/cache --recompute 5
"""


def make_source(root: Path, count: int) -> None:
    """Make a folder of class folders with so many JPEG files of noise around a colour."""
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = np.clip(rng.normal(60 + 40 * (i % 4), 50, (160, 200, 3)), 0, 255).astype(np.uint8)
        path = root / f"class{i % 4}" / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def longest_silence(command: list[str]) -> tuple[float, float, int]:
    """Return the longest time without output on the terminal, the whole time, and the exit code."""
    ours, theirs = pty.openpty()
    begun = last = time.monotonic()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    longest = 0.0
    while True:
        ready, _, _ = select.select([ours], [], [], 0.1)
        now = time.monotonic()
        longest = max(longest, now - last)
        if ready:
            try:
                if not os.read(ours, 65_536):
                    break
            except OSError:  # the other end is closed
                break
            last = now
    os.close(ours)
    return longest, time.monotonic() - begun, process.wait()


def main() -> None:
    """Run all commands, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--most", type=float, default=2.0, help="Seconds; exit with 1 if a command is silent for more.")
    options = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "images"
        make_source(source, options.images)
        print(f"{'silent':>8} {'in all':>8}  command", flush=True)
        for line in COMMANDS.strip().splitlines():
            arguments = shlex.split(line.format(source=source, at=folder))
            silent, whole, code = longest_silence([sys.executable, "-m", "featcache", *arguments])
            worst = max(worst, silent)
            shown = line.replace("{at}/", "").replace("{source}", "images")
            print(f"{silent:6.2f} s {whole:6.1f} s  {shown}" + (f"  (exit code {code})" if code else ""), flush=True)
    print(f"longest silence: {worst:.2f} s")
    sys.exit(worst > options.most)


if __name__ == "__main__":
    main()
