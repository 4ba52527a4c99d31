"""Make docs/reliability.md from what the tests counted.

FEATCACHE_RELIABILITY=counts.jsonl pytest -m 'slow or not slow' tests/reliability tests/cache
python tests/reliability/report.py counts.jsonl > docs/reliability.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

INTRODUCTION = """# Reliability

What was done to caches on purpose, how often, and what was lost. This page is written by
`tests/reliability/report.py` from the tests' own counts; CI runs a short form of each test. To repeat it:

```sh not run: hours; CI runs a short form
FEATCACHE_RELIABILITY=counts.jsonl pytest -m 'slow or not slow' tests/reliability tests/cache
python tests/reliability/report.py counts.jsonl > docs/reliability.md
```

The kills are of real processes that run the command line; but for those of the *Keras base* with a stand-in for the
base (features made from an image's digest, without TensorFlow), so that one takes half a second. *Unsound* means
that `verify` found a problem after the kill; *different* that the finished cache was not equal, in its listing and
in every byte of every row, to one that nobody disturbed. A full disk is a limit on the size of every file.
The state machines' *tries* are their steps; each ends at the first difference. Of *two writers* the first one was
stopped, or ran in another pid namespace, while the source changed and a second one wrote; *refused* are those that
ended with one line, *wrong rows* images with features of bytes that they never had.
*Fuzz behind checksums* puts one value that makes no sense into a file (another type, negative, huge, NaN, empty, a
path, another length, nested deeply), makes all checksums right again, and uses it: opens, lists, reads, verifies,
mends, collects, extracts, predicts, compares. *Damage said* is one line; a *wrong read* would be features of another
image that `verify` does not find. What makes sense and is false, such as two images' digests exchanged, is not among
them: only the images refute it.

| what | tries | found or lost |
|---|---:|---|
"""

READS = """
## What a default read checks

Every row of the manifest that is read has its checksum compared. Of the features, each block of about 1 MiB has its
CRC-32 compared when a process first touches it, memory-mapped or not; later reads of the block cost nothing more.
Features are mapped at the offset that the manifest gives, so that reading a damaged file runs no HDF5 code. `verify`
reads all of a cache, checks all of this and the checksum of every file as a whole.
"""


def main() -> None:
    counted: dict[str, dict[str, float]] = {}
    for line in Path(sys.argv[1]).read_text().splitlines():
        values = json.loads(line)
        counted[values.pop("what")] = values  # the last run counts
    rows = []
    for what, values in counted.items():
        tries = values.pop("tries", values.pop("steps", 0))
        rest = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in values.items())
        rows.append(f"| {what} | {tries:g} | {rest} |")
    sys.stdout.write(INTRODUCTION + "\n".join(rows) + "\n" + READS)


if __name__ == "__main__":
    main()
