"""Images that crash or hang the process that decodes them: each is found, and the rest completes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import faulty
import pytest
from conftest import random_image, write_image
from recording import record

from featcache.cache import FeatureCache

LIMIT = 6
CRASH, HANG = "crashes the process that decodes it (signal 11)", f"decoding did not end within {LIMIT} s"
COUNT = 40

needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="the command starts itself again on Linux")


def poisoned(root: Path, bad: dict[str, bytes]) -> Path:
    """Return a folder of 40 images, some of them bad."""
    for i in range(COUNT):
        name = ("a" if i % 2 else "b") + f"/{i:02d}.png"
        with write_image(root / name, random_image(i)).open("ab") as file:
            file.write(bad.get(name, b""))
    return root


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, faulty.__file__, LIMIT, *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.slow
@needs_fork
def test_poison_is_found_in_one_command(oracle: Path, tmp_path: Path) -> None:
    """One crashing and one hanging image among 40: both are named, 38 have rows, nothing is tried twice."""
    photos, cache = poisoned(tmp_path / "photos", {"b/10.png": b"crash", "a/31.png": b"hang"}), tmp_path / "cache"
    command = [
        "extract",
        photos,
        "--base",
        oracle,
        "--layer",
        "mix",
        "--preprocess",
        "none",
        "--cache",
        cache,
        "--batch-size",
        4,
        "--json",
    ]
    first = run(*command)
    assert first.returncode == 3, first.stderr
    said = json.loads(first.stdout)
    skipped = {Path(one["path"]).name: one["reason"] for one in said["skipped"]}
    assert skipped == {"10.png": CRASH, "31.png": HANG}
    assert (said["images"], len(FeatureCache(cache))) == (COUNT - 2, COUNT - 2)
    assert not (cache / "decoding").exists()
    again = run(*command)
    assert again.returncode == 3, again.stderr
    said = json.loads(again.stdout)
    assert (said["computed"], said["reused"], len(said["skipped"])) == (0, COUNT - 2, 2)
    retried = run(*command, "--retry-failed")
    said = json.loads(retried.stdout)
    assert (said["computed"], len(said["skipped"])) == (0, 2)
    assert "starting again" not in again.stderr + retried.stderr  # only the probe dies of it
    record("images that crash or hang", tries=2, named=len(skipped), others_lost=COUNT - 2 - said["images"])


@pytest.mark.slow
@needs_fork
def test_a_hang_is_found_in_one_command(oracle: Path, tmp_path: Path) -> None:
    """A decoding without end ends the process, which starts again and leaves that image out."""
    photos = poisoned(tmp_path / "photos", {"a/31.png": b"hang"})
    options = ["--base", oracle, "--layer", "mix", "--preprocess", "none", "--batch-size", 4]
    done = run("extract", photos, *options, "--cache", tmp_path / "c")
    assert done.returncode == 3, done.stderr
    assert "warning: stopped by a decoding without end; starting again to find the image" in done.stderr
    assert [one["reason"] for one in FeatureCache(tmp_path / "c").skipped] == [HANG]
    record("an image that hangs", tries=1, named=1, others_lost=COUNT - 1 - len(FeatureCache(tmp_path / "c")))


@pytest.mark.slow
def test_the_library_finds_it_when_called_again(oracle: Path, tmp_path: Path) -> None:
    """Without the command line a hang is an error that names the suspects; the same call finds the image."""
    photos = poisoned(tmp_path / "photos", {"a/31.png": b"hang"})
    code = (
        f"import faulty; faulty.install('{LIMIT}'); import featcache; print(len(featcache.extract({str(photos)!r}, "
        f"base={str(oracle)!r}, layers=['mix'], preprocess='none', batch_size=4, cache={str(tmp_path / 'c')!r})))"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        for _ in range(2)
    )
    assert first.returncode == 1
    assert f"HungError: The decoding of 'a/31.png' did not end within {LIMIT} s." in first.stderr
    assert (second.returncode, second.stdout.strip()) == (0, str(COUNT - 1)), second.stderr
    assert [one["reason"] for one in FeatureCache(tmp_path / "c").skipped] == [HANG]


@needs_fork
def test_a_crash_that_is_no_images_fault_stops(tmp_path: Path) -> None:
    """A process that crashes whatever it decodes is started twice, and then the command says so."""
    code = (
        "import os, signal, sys; from featcache.cli import main; import featcache.extraction.extracting as e\n"
        "e.Extraction.run = lambda *_: os.kill(os.getpid(), signal.SIGABRT)\n"
        "sys.argv = ['featcache', 'extract', 'digits', '--base', 'vgg19', '--cache', sys.argv[1]]; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "c")], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    warning, error = done.stderr.splitlines()
    assert warning == "warning: stopped by SIGABRT; starting again to find the image"
    assert error.startswith("error: It stopped by SIGABRT again, and no image")
