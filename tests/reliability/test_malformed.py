"""Malformed images: each is either pixels or a named reason, never a crash, a hang or another exception."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image
from recording import record

from featcache.errors import ImageError
from featcache.images.decoding import decode

FULL = bool(os.environ.get("FEATCACHE_RELIABILITY"))


def valid_images() -> dict[str, bytes]:
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    found = {}
    for kind, options in {"JPEG": {}, "PNG": {}, "GIF": {}, "WEBP": {}, "BMP": {}, "TIFF": {}}.items():
        buffer = io.BytesIO()
        pixels.save(buffer, kind, **options)
        found[kind] = buffer.getvalue()
    progressive = io.BytesIO()
    pixels.save(progressive, "JPEG", progressive=True)
    return {**found, "progressive JPEG": progressive.getvalue()}


def mutations(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Yield a file cut short, with bytes flipped, a part doubled, dropped, zeroed or swapped for another."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        damaged = bytearray(content)
        place, length = int(rng.integers(1, len(content))), int(rng.integers(1, 64))
        kind = i % 6
        if kind == 0:
            del damaged[place:]
        elif kind == 1:
            for at in rng.integers(0, len(content), length):
                damaged[at] ^= int(rng.integers(1, 256))
        elif kind == 2:
            damaged[place:place] = damaged[place : place + length]
        elif kind == 3:
            del damaged[place : place + length]
        elif kind == 4:
            damaged[place : place + length] = bytes(length)
        else:
            header = int(rng.integers(2, 64))
            damaged[header : header + 4] = rng.integers(0, 256, 4, np.uint8).tobytes()
        yield bytes(damaged)


def png(width: int, height: int, *, data: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 58, 0, 0, 54, 40, width, height, 1, 24, 0, 4, 0, 0, 0, 0) + bytes(4)


HAND_MADE = {
    "nothing": b"",
    "one byte": b"\xff",
    "text": b"hello, I am a text",
    "zeros": bytes(4096),
    "JPEG marker alone": b"\xff\xd8",
    "JPEG start and end": b"\xff\xd8\xff\xd9",
    "JPEG with an endless segment": b"\xff\xd8\xff\xe1\xff\xff" + bytes(100),
    "PNG of no pixels": png(0, 0),
    "PNG of 2^31 pixels a side": png(2**31 - 1, 2**31 - 1),
    "PNG of 100,000 pixels a side": png(100_000, 100_000),
    "PNG with too little data": png(64, 64, data=bytes(10)),
    "PNG with impossible depth": png(4, 4, depth=3),
    "PNG with impossible colour": png(4, 4, colour=5),
    "PNG bomb": png(40_000, 40_000, data=bytes(10_000_000)),
    "BMP of negative width": bmp(-5, 5),
    "BMP of 60,000 pixels a side": bmp(60_000, 60_000),
    "BMP of no width": bmp(0, 10),
    "GIF header alone": b"GIF89a\x01\x00\x01\x00",
    "GIF of no size": b"GIF89a\x00\x00\x00\x00\x80\x00\x00" + bytes(6) + b";",
    "WebP header alone": b"RIFF\x00\x00\x00\x00WEBPVP8 ",
    "WebP with a wrong length": b"RIFF\xff\xff\xff\xffWEBPVP8L\xff\xff\xff\xff",
    "TIFF with a loop of directories": b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00",
    "TIFF with its directory nowhere": b"II*\x00\xff\xff\xff\x7f",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "zip": b"PK\x03\x04" + bytes(30),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "EPS that would run": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n",
    "PPM with absurd size": b"P6 999999999 999999999 255\n",
    "ICO of nothing": b"\x00\x00\x01\x00\x00\x00",
}


def test_malformed_images() -> None:
    """Hundreds of damaged and hand-made files give pixels or a reason on one line, quickly."""
    tried = list(HAND_MADE.values())
    for seed, content in enumerate(valid_images().values()):
        tried += mutations(content, seed, 60 if FULL else 12)
    decode(valid_images()["PNG"], 3)  # imports TensorFlow
    outcome: Counter[str] = Counter()
    slowest = 0.0
    for content in tried:
        start = time.monotonic()
        try:
            pixels = decode(content, 3)
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.size
            outcome["rows"] += 1
        except ImageError as error:
            assert "\n" not in str(error)
            assert str(error)
            outcome["reasons"] += 1
        slowest = max(slowest, time.monotonic() - start)
    record("malformed images", tries=len(tried), **outcome, other_exceptions=0, slowest_seconds=round(slowest, 2))
    assert sum(outcome.values()) == len(tried)
    assert slowest < 30
