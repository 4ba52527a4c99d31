"""How many images go through a base at once."""

from __future__ import annotations

from collections.abc import Callable

from featcache.options import BATCH_SIZE

WORTH_TRYING = 5000
"""Images from which on trying other sizes costs little beside the run."""

_SHARE = 0.02  # of a run
_GAIN = 1.03  # below which a difference may be noise
_BYTES_PER_PIXEL = 768  # that the maps of a network's widest layers take: 64 channels, float32, three at a time


def largest_batch(pixels: int, memory: int | None, passes: int = 1) -> int:
    """Return the largest batch of images of a size of which a quarter of the memory surely holds `passes`."""
    return 128 if memory is None else min(128, memory // 4 // (pixels * _BYTES_PER_PIXEL * passes))


def fastest_batch(seconds: Callable[[int], tuple[float, float]], images: int, largest: int, passes: int = 1) -> int:
    """Return the batch size with which images go through fastest, of 8 to 128, trying at most a fiftieth of the run.

    `seconds` runs `passes` batches of a size at once, twice, the first time to warm up, and returns the seconds of each
    time. It is 32 where the run is short, or where no other size is clearly faster, and never more than `largest`.
    """
    if images < WORTH_TRYING:
        return BATCH_SIZE
    best, least = BATCH_SIZE, 0.0
    left = 0.0
    for size in (BATCH_SIZE, 64, 16, 128, 8):
        if (size > BATCH_SIZE and size > largest) or (least and 2 * passes * size * least > left):
            continue
        first, second = seconds(size)
        each = second / (passes * size)
        if not least:
            least, left = each, _SHARE * images * each
        elif each * _GAIN < least:
            best, least = size, each
        left -= first + second
    return best
