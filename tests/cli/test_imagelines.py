import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import hunt, random_image
from PIL import Image

PRINTING = """
import os, subprocess, sys
from featcache.cli.imagelines import dropped

with dropped():
    os.write(2, b"Corrupt JPEG data: 17 extraneous bytes before marker 0xd9\\nE0000 a real error\\n")
    print("from Python", file=sys.stderr)
    os.write(2, b"Premature end ")
    os.write(2, b"of JPEG file\\nlibpng warning: iCCP: known incorrect sRGB profile\\n")
    os.write(2, b"Input file read error\\n/tmp/a.tif: Using code\\n" + b"x" * 100_000 + b"\\n")
    subprocess.run([sys.executable, "-c", "import os; os.write(2, b'Corrupt JPEG data: again\\\\nof a child')"])
os.write(2, b"\\nCorrupt JPEG data: outside\\n")
"""


def test_lines_of_image_libraries_are_dropped_and_all_others_passed_on() -> None:
    """What libjpeg and libpng print about one image is not seen, whoever writes it and however it arrives."""
    done = subprocess.run([sys.executable, "-c", PRINTING], capture_output=True, check=True)
    lines = done.stderr.split(b"\n")
    assert sorted(lines, key=len) == sorted(
        [b"from Python", b"E0000 a real error", b"x" * 100_000, b"of a child", b"Corrupt JPEG data: outside", b""],
        key=len,
    )


@hunt
@pytest.mark.slow
def test_a_damaged_jpeg_leaves_no_line_of_libjpeg(tmp_path: Path, oracle: Path) -> None:
    """TensorFlow's libjpeg complains of bytes that a decoder can do without; the command says nothing of it."""
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(random_image(i, 64)).save(tmp_path / "set" / name / f"{name}{i}.jpg")
    damaged = tmp_path / "set" / "a" / "a0.jpg"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-2] + b"extraneous" + content[-2:])
    made = ["--base", oracle, "--preprocess", "none", "--cache", tmp_path / "c"]
    command = [sys.executable, "-m", "featcache", "extract", tmp_path / "set", *made]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    plain = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=True, env=environment)
    assert "Corrupt JPEG data" in plain.stderr
    again = subprocess.run([*command[:-1], tmp_path / "d"], capture_output=True, text=True, check=True, env=environment)
    assert "JPEG" not in again.stderr
    assert "6 images" in again.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of Unix closes the stream")
def test_a_closed_standard_error_is_no_error() -> None:
    """A command whose standard error is closed, as some schedulers do, works and writes nothing there."""
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -m featcache --version 2>&-', sys.executable], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "featcache")
