import gzip
import io
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import predicted_mean, random_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featcache.errors import ImageError, SourceError
from featcache.sources import SourceOptions, tars
from featcache.sources.opening import open_source


def png(seed: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(random_image(seed)).save(held, "PNG")
    return held.getvalue()


def pack(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar of the given members, names as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(seeds: range) -> list[tuple[str, bytes]]:
    return [member for i in seeds for member in ((f"{i:05d}.png", png(i)), (f"{i:05d}.cls", b"%d\n" % (i % 2)))]


def test_tar_files_are_splits(extracting, tmp_path: Path) -> None:
    """Tar files named after splits are these, read in their own order, rows and images belonging together."""
    pack(tmp_path / "t" / "train-001.tar", samples(range(20, 30)))
    pack(tmp_path / "t" / "train-000.tar", samples(range(20)))
    pack(tmp_path / "t" / "val-000.tar", samples(range(30, 36)))
    cache = extracting(tmp_path / "t", tmp_path / "c")
    assert cache.splits == {"train": 30, "validation": 6}
    assert cache.class_names == ["0", "1"]
    assert cache.paths()[20] == "train-001.tar/00020.png"
    assert np.allclose(cache.features(), [predicted_mean(random_image(i)) for i in range(36)], rtol=1e-5)
    assert extracting(tmp_path / "t", tmp_path / "c").report.computed == 0


def test_rows_keep_the_order_of_the_tar(extracting, tmp_path: Path) -> None:
    """Sequential sources are not shuffled: the first shard holds the first images."""
    path = pack(tmp_path / "all.tar", samples(range(12)))
    cache = extracting(path, tmp_path / "c", shard_rows=4)
    assert cache._chosen(None, views=False).shards.tolist() == [1] * 4 + [2] * 4 + [3] * 4
    assert cache.source == {"name": "all", "location": str(path)}
    assert {entry.split for entry in cache.entries} <= {"train", "validation"}


def test_chosen_classes_of_a_tar(extracting, tmp_path: Path) -> None:
    """Some classes of a tar are read from their own places, still in its order."""
    cache = extracting(pack(tmp_path / "all.tar", samples(range(8))), tmp_path / "c", classes=["1"], shard_rows=2)
    assert np.allclose(cache.features(), [predicted_mean(random_image(i)) for i in (1, 3, 5, 7)], rtol=1e-5)
    assert cache._chosen(None, views=False).shards.tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("members", "label"),
    [
        ([("a.cls", b"cat\n"), ("a.txt", b"no"), ("a.png", b"x")], "cat"),
        ([("a.png", b"x"), ("a.label", b" dog ")], "dog"),
        ([("a.png", b"x"), ("a.txt", "chat ñ".encode())], "chat ñ"),
        ([("a.png", b"x"), ("a.json", json.dumps({"label": 7}).encode())], "7"),
        ([("a.png", b"x"), ("a.json", b'{"label": true}')], "true"),
        ([("a.png", b"x"), ("a.json", b'{"label": ["cat"]}')], "cat"),
        ([("set/top/a.png", b"x"), ("set/top/a.json", b'{"width": 3}')], "top"),
        ([("./top/a.jpg", b"x")], "top"),
        ([("a.weird", b"x")], None),
        ([("a.png", b"x"), ("a.cls", b"")], None),
    ],
)
def test_labels(tmp_path: Path, members: list[tuple[str, bytes]], label: str | None) -> None:
    """A label is the content of .cls, .label or .txt, or JSON's `label`, else the folder below what wraps all."""
    (item,) = open_source(pack(tmp_path / "a.tar", members)).items
    assert item.label == label


@pytest.mark.parametrize("content", [b"{", b'{"label": [1, 2]}', b'{"label": 1.5}', b"[" * 100_000, b" " * 2_000_000])
def test_labels_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    """Broken JSON, or a label that is neither text nor integer, names the member."""
    path = pack(tmp_path / "a.tar", [("a.png", b"x"), ("a.json", content)])
    with pytest.raises(SourceError, match=r"'a\.json' of .* is no label") as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_members_apart_are_one_sample(tmp_path: Path) -> None:
    """A label belongs to its image even if it lies elsewhere in the tar; folders keep samples apart."""
    members = [("b/1.cls", b"x"), ("a/1.png", png(0)), ("b/1.png", png(1)), ("a/1.cls", b"y")]
    source = open_source(pack(tmp_path / "a.tar", members))
    assert [(item.path, item.label) for item in source.items] == [("a/1.png", "y"), ("b/1.png", "x")]
    assert [source.read(item) for item in source.items] == [png(0), png(1)]


def test_nothing_is_left_out_silently(tmp_path: Path, caplog) -> None:
    """A second image beside a label is warned of; a label without image is listed, to be skipped with a reason."""
    members = [("a.1.png", png(0)), ("a.2.png", png(1)), ("a.cls", b"x"), ("b.txt", b"x"), ("._a.png", b"x")]
    path = pack(tmp_path / "a.tar", members)
    assert [item.path for item in open_source(path).items] == ["a.1.png", "b.txt"]
    assert "1 member is not read" in caplog.text
    assert "a.2.png" in caplog.text


def test_dots_in_names_make_no_sample(tmp_path: Path) -> None:
    """A packed folder of cat.1.png, cat.2.png, … has all its images, labelled by their folders."""
    path = pack(tmp_path / "a.tar", [(f"{name}s/{name}.{i}.png", png(i)) for name in ("cat", "dog") for i in range(3)])
    items = open_source(path).items
    assert [item.path for item in items] == [f"{name}s/{name}.{i}.png" for name in ("cat", "dog") for i in range(3)]
    assert [item.label for item in items] == ["cats"] * 3 + ["dogs"] * 3


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_hostile_names_are_harmless(tmp_path: Path, form: int) -> None:
    """Absolute names, .., newlines and odd bytes are names: nothing is written, all is read."""
    names = [
        "/etc/passwd.png",
        "../../up.png",
        "new\nline.png",
        os.fsdecode(b"odd\xff.png"),
        "🐈.png",
        "x" * 90 + ".png",
    ]
    path = pack(tmp_path / "in" / "a.tar", [(name, png(i)) for i, name in enumerate(names)], form)
    before = sorted(tmp_path.rglob("*"))
    source = open_source(path)
    assert [item.path for item in source.items] == names
    assert [source.read(item) for item in source.items] == [png(i) for i in range(len(names))]
    assert sorted(tmp_path.rglob("*")) == before


def test_links_and_folders_are_no_images(tmp_path: Path) -> None:
    """Only regular members count: a link leads nowhere."""
    path = pack(tmp_path / "a.tar", [("a.png", png(0))])
    with tarfile.open(path, "a") as tar:
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("dir.png", tarfile.DIRTYPE),
            ("pipe.png", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert [item.path for item in open_source(path).items] == ["a.png"]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_compressed_tars_are_refused(tmp_path: Path, name: str) -> None:
    """A compressed tar is told by its content, and the error says what to do."""
    (tmp_path / name).write_bytes(gzip.compress(pack(tmp_path / "plain", samples(range(2))).read_bytes()))
    with pytest.raises(SourceError, match=r"compressed with gzip.*Decompress"):
        open_source(tmp_path / name)
    (tmp_path / "plain").unlink()
    with pytest.raises(SourceError, match="gzip"):
        open_source(tmp_path)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    """A tar cut off anywhere before its end mark is an error: no image is lost silently."""
    content = pack(tmp_path / "a.tar", samples(range(4))).read_bytes()
    end = len(content.rstrip(b"\0"))
    for cut in [*range(0, end, 97), *range(0, end, 512)]:
        (tmp_path / "a.tar").write_bytes(content[:cut])
        with pytest.raises(SourceError, match=r"a\.tar"):
            open_source(tmp_path / "a.tar")


def test_what_follows_the_end_is_noticed(tmp_path: Path) -> None:
    """Tars put one behind the other with cat would lose all but the first: an error."""
    content = pack(tmp_path / "a.tar", samples(range(2))).read_bytes()
    (tmp_path / "a.tar").write_bytes(content + content)
    with pytest.raises(SourceError, match="more follows its end"):
        open_source(tmp_path / "a.tar")


def test_damaged_header(tmp_path: Path) -> None:
    """A flipped bit in any member's header is an error, not an early end."""
    content = bytearray(pack(tmp_path / "a.tar", samples(range(4))).read_bytes())
    with tarfile.open(tmp_path / "a.tar") as tar:
        offsets = [member.offset for member in tar]
    for offset in offsets:
        damaged = content.copy()
        damaged[offset + 3] ^= 4
        (tmp_path / "a.tar").write_bytes(damaged)
        with pytest.raises(SourceError, match=f"damaged or cut off at byte {offset:,}|bad checksum|invalid header"):
            open_source(tmp_path / "a.tar")


def test_member_of_negative_size(tmp_path: Path) -> None:
    """A header that leads backwards is an error, not an endless loop."""
    info = tarfile.TarInfo("a.png")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + (-1024 & 0xFFFF).to_bytes(2, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) * 3 + bytes(1024))
    with pytest.raises(SourceError, match="-1024 bytes"):
        open_source(tmp_path / "a.tar")


def test_a_name_twice(tmp_path: Path) -> None:
    """Two members of one name are an error: nobody knows which is meant."""
    with pytest.raises(SourceError, match=r"two members named 'a\.png'"):
        open_source(pack(tmp_path / "a.tar", [("a.png", b"1"), ("a.png", b"2")]))


def test_empty_tar(tmp_path: Path) -> None:
    """A tar without members is an error."""
    with pytest.raises(SourceError, match="no member"):
        open_source(pack(tmp_path / "a.tar", []))


def test_tar_cut_off_after_listing(tmp_path: Path) -> None:
    """An image that is no longer there has its reason; an empty one too."""
    path = pack(tmp_path / "a.tar", [("a.png", b""), ("b.png", png(0))])
    source = open_source(path)
    with pytest.raises(ImageError, match="empty file"):
        source.read(source.items[0])
    os.truncate(path, 1100)
    with pytest.raises(ImageError, match="was cut off"):
        source.read(source.items[1])
    path.unlink()
    other = open_source(pack(tmp_path / "b.tar", [("b.png", png(0))]))
    (tmp_path / "b.tar").unlink()
    with pytest.raises(ImageError, match="No such file"):
        other.read(other.items[0])


def test_descriptors_are_closed(tmp_path: Path) -> None:
    """However many tar files there are, a few are open at a time, and none when the source is gone."""
    for i in range(40):
        pack(tmp_path / f"{i:02d}.tar", [("a.png", png(i))])
    before = len(os.listdir("/proc/self/fd"))
    source = open_source(tmp_path)
    assert [source.read(item) for item in source.items] == [png(i) for i in range(40)]
    assert len(os.listdir("/proc/self/fd")) - before <= 8
    del source
    assert len(os.listdir("/proc/self/fd")) == before


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=130),
        min_size=1,
        max_size=6,
        unique=True,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_those_that_tarfile_finds(tmp_path_factory, names: list[str], form: int) -> None:
    """Names, places and sizes are what Python's own module says."""
    path = tmp_path_factory.getbasetemp() / "same.tar"
    pack(path, [(name, b"x" * (i * 300)) for i, name in enumerate(names)], form)
    with tarfile.open(path) as tar:
        expected = [(m.name.removeprefix("./"), m.offset_data, m.size) for m in tar if m.isreg()]
    assert [tuple(member) for member in tars._members(path)] == expected


def test_many_threads(tmp_path: Path) -> None:
    """Threads that read from more tar files than are kept open each get their own image's bytes."""
    for i in range(20):
        pack(tmp_path / f"{i:02d}.tar", [(f"{j}.png", b"%d " % (i * 10 + j) * 50) for j in range(10)])
    source = open_source(tmp_path)
    order = [(i * 77) % 200 for i in range(200)] * 20
    with ThreadPoolExecutor(16) as pool:
        contents = list(pool.map(lambda i: source.read(source.items[i]), order))
    assert contents == [b"%d " % i * 50 for i in order]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=12))
def test_mutated_tars(tmp_path_factory, place: int, mutation: bytes) -> None:
    """Bytes overwritten anywhere give a source or a SourceError in one line."""
    path = tmp_path_factory.getbasetemp() / "mutated.tar"
    content = bytearray(pack(path, samples(range(3))).read_bytes()[:8192])
    content[place % 8192 : place % 8192 + len(mutation)] = mutation
    path.write_bytes(content)
    try:
        open_source(path)
    except SourceError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("member", "label"),
    [
        ("a//b/1.png", "b"),
        ("/a/b/1.png", "b"),
        ("./a/./b/1.png", "b"),
        ("../b/1.png", "b"),
        ("b/.hidden/1.png", None),
        ("__MACOSX/b/1.png", None),
        ("b/@eaDir/1.png", None),
    ],
)
def test_odd_names_of_members(tmp_path: Path, member: str, label: str | None) -> None:
    """Folders of members are what they would be unpacked; litter is no member."""
    source = open_source(pack(tmp_path / "a.tar", [(member, png(0)), ("x/b/2.png", png(1))][: 1 if label else 2]))
    assert source.items[0].label == (label or "b")
    assert len(source.items) == 1


def test_tars_of_splits_and_others(tmp_path: Path) -> None:
    """A tar that is no split beside others that are is not mixed in; a split that no tar and no folder has is said."""
    pack(tmp_path / "t" / "train-0.tar", samples(range(4)))
    pack(tmp_path / "t" / "extra one-0.tar", samples(range(4, 8)))
    with pytest.raises(SourceError, match=r"--exclude 'extra one-0.tar'.*--split test='extra one'"):
        open_source(tmp_path / "t")
    source = open_source(tmp_path / "t", options=SourceOptions(splits={"test": "extra one"}))
    assert [item.split for item in source.items] == ["test"] * 4 + ["train"] * 4
    with pytest.raises(SourceError, match=r"'x'.*no such folder"):
        open_source(tmp_path / "t" / "train-0.tar", options=SourceOptions(splits={"test": "x"}))


def test_a_member_in_very_many_folders(tmp_path: Path) -> None:
    """A name of a megabyte costs no more than its length."""
    path = pack(tmp_path / "a.tar", [("d/" * 500_000 + "1.png", png(0))])
    with pytest.raises(SourceError, match="nothing but the folder"):
        open_source(path)
