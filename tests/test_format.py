import json
import subprocess
import sys

import numpy as np
from golden import make

from featcache.cache import FeatureCache
from featcache.cache.verification import verify

STRANGER = """
import hashlib, json, sqlite3, sys, zlib
from pathlib import Path
import h5py, numpy as np

folder = Path(sys.argv[1])
described = json.loads((folder / "recipe.json").read_text())
canonical = json.dumps(described["recipe"], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
assert hashlib.sha256(canonical.encode()).hexdigest() == described["fingerprint"]

db = sqlite3.connect(f"file:{folder}/manifest.sqlite?mode=ro", uri=True)
db.text_factory = bytes

def table(name, order):
    for *values, crc in db.execute(f"SELECT * FROM {name} ORDER BY {order}"):
        columns = [c[1].decode() for c in db.execute(f"PRAGMA table_info({name})")]
        kinds = [c[2] for c in db.execute(f"PRAGMA table_info({name})")]
        text = [b"x" + v if k == b"BLOB" else b"t" + v if isinstance(v, bytes) else b"%d" % v
                for v, k in zip(values, kinds)]
        assert zlib.crc32(b"".join(part + b"\\x1f" for part in text)) == crc, (name, values)
        yield dict(zip(columns, values))

meta = {row["key"].decode(): json.loads(row["value"]) for row in table("meta", "key")}
assert (meta["format"], meta["target"]) == (2, "class") and meta["fingerprint"] == described["fingerprint"]
blocks = {(row["shard"], row["layer"].decode()): row for row in table("blocks", "shard")}
features = {}
for shard in table("shards", "id"):
    path = folder / "shards" / shard["name"].decode()
    content = path.read_bytes()
    crc = zlib.crc32(content[4096:])
    text = b"featcache shard, HDF5 from byte 4096 on, whose CRC-32 is %08x\\n" % crc
    assert content[:4096] == text.ljust(4096, b"\\0")
    assert (len(content), crc) == (shard["size"], shard["checksum"])
    with h5py.File(path) as file:
        assert file.attrs["fingerprint"] == described["fingerprint"] and file.attrs["recipe"] == canonical
        assert json.loads(file.attrs["layers"]) == meta["layers"]
        index = zlib.crc32(file["views"][()].tobytes(), zlib.crc32(file["digests"][()].tobytes()))
        texts = [file.attrs[name].encode() for name in ("fingerprint", "layers", "augmentation")]
        for part in [*file["paths"][()], *texts]:
            index = zlib.crc32(part + b"\\0", index)
        assert index == file.attrs["index_crc32"]
        for layer, shape in meta["layers"]:
            member = layer.replace("%", "%25").replace("/", "%2F")
            rows = file["features"][member][()]
            assert rows.shape == (shard["rows"], *shape)
            step = file["features"][member].attrs["block_rows"]
            sums = [zlib.crc32(rows[i:i + step].tobytes()) for i in range(0, len(rows), step)]
            block = blocks[shard["id"], layer]
            assert sums == file["checksums"][member][()].tolist() == np.frombuffer(block["checksums"], "<u4").tolist()
            start = block["offset"]
            assert content[start:start + rows.nbytes] == rows.tobytes()
            for i, row in enumerate(rows):
                view = int(file["views"][i])
                augmentation = file.attrs["augmentation"].encode() if view else b""
                features[layer, bytes(file["digests"][i]), view, augmentation] = (shard["id"], i, row.tolist())
n = meta["images"]
assert n <= 65536  # else every column has more pieces than one
column = {row["name"].decode(): row["content"] for row in table("listing", "first")}

def numbers(name, kind):
    return np.frombuffer(column[name], kind).tolist() or [-1] * n

def words(name):
    names = [*json.loads(column[f"names of {name}"]), None]
    return [names[i] for i in numbers(name, "<i4")]

ends = [0, *numbers("ends", "<u4")]
digests = column["digests"] or bytes(32 * n)
listing = [
    {"path": column["paths"][ends[i]:ends[i + 1]], "label": words("labels")[i], "split": numbers("splits", "i1")[i],
     "known": numbers("known", "u1")[i], "digest": digests[32 * i:32 * i + 32],
     "reason": json.loads(column["reasons"]).get(str(i))}
    for i in range(n)
]
assert column["regions"] == b""
assert len(numbers("sizes", "<i8")) == len(numbers("stamps", "<i8")) == len(words("groups")) == n
assert numbers("changes", "<i8") == [-2**60 + i for i in range(6)] + [9]
settled = list(table("settled", "id"))
assert len(settled) == meta["settled"]
for row in settled:
    reasons = json.loads(row["reasons"])
    for i, position in enumerate(np.frombuffer(row["positions"], "<i8").tolist()):
        listing[position] |= {
            "split": int(np.frombuffer(row["splits"], "i1")[i]), "known": row["known"][i],
            "digest": row["digests"][32 * i:32 * i + 32], "reason": reasons.get(str(i)),
        }
places = {}
for row in table("rows", "shard"):
    for i, view in enumerate(np.frombuffer(row["views"], "<u2").tolist()):
        places[row["digests"][32 * i:32 * i + 32], view, row["augmentation"] if view else b""] = (row["shard"], i)
assert len(places) == meta["rows"]
names = sorted({row["label"] for row in listing})
found = {}
for layer, _ in meta["layers"]:
    for number, split in enumerate(("train", "validation", "test")):
        chosen = [r for r in listing if r["split"] == number and r["reason"] is None and r["known"]]
        X = []
        for row in chosen:
            shard, position, values = features[layer, row["digest"], 0, b""]
            assert places[row["digest"], 0, b""] == (shard, position)
            X.append(values)
        found[f"{layer} {split}"] = [X, [names.index(r["label"]) for r in chosen],
                                              [r["path"].decode("latin-1") for r in chosen]]
assert "featcache" not in sys.modules
print(json.dumps({"rows": found, "views": sum(view > 0 for _, _, view, _ in features) // len(meta["layers"])}))
"""


def golden_rows(layer: str, split: str, view: int = 0) -> list[object]:
    """Return what the golden cache must hold, computed from its definition alone."""
    return [make.features(one[4], view)[layer].tolist() for one in make.IMAGES if one[2] == split]


def test_golden_cache_of_format_2_reads_back() -> None:
    """A cache written by an earlier commit of the same format gives its rows, labels, paths, views and reasons."""
    cache = FeatureCache(make.FOLDER)
    assert cache.class_names == ["cats", "dogs"]
    assert cache.splits == {"train": 4, "validation": 1, "test": 1}
    assert cache.label_indices("train").tolist() == [0, 0, 0, 1]
    assert cache.paths() == [one[0] for one in make.IMAGES if one[4]]
    assert cache.skipped == [{"path": "dogs/broken.png", "reason": make.REASON}]
    for layer in make.LAYERS:
        for split in cache.splits:
            assert np.asarray(cache.features(split, layer)).tolist() == golden_rows(layer, split)
    views = np.asarray(cache.features("train", "block1", views=True)).tolist()
    plain, augmented = golden_rows("block1", "train"), golden_rows("block1", "train", view=1)
    assert views == [plain[0], augmented[0], plain[1], augmented[1], plain[2], augmented[2], plain[3]]
    assert cache.groups("train").tolist() == [0, 1, 0, 1] or len(set(cache.groups("train").tolist())) == 2
    assert verify(make.FOLDER).problems == []


def test_the_formats_version_is_in_no_fingerprint() -> None:
    """Another format of the manifest leaves every recipe's fingerprint, and so every row's key, as it was."""
    assert make.RECIPE.fingerprint == "7b440b471794e3a879751177e1c4703771fa5484ff70498f1084817c5a1baede"


def test_a_stranger_reads_a_cache_without_featcache() -> None:
    """h5py, sqlite3 and docs/format.md are enough to read every row and to compute every checksum."""
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(make.FOLDER)], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["views"] == 2
    for layer in make.LAYERS:
        for split in ("train", "validation", "test"):
            X, y, paths = found["rows"][f"{layer} {split}"]
            chosen = [one for one in make.IMAGES if one[2] == split]
            assert golden_rows(layer, split) == X
            assert y == [["cats", "dogs"].index(one[1]) for one in chosen]
            assert [p.encode("latin-1") for p in paths] == [one[0].encode("utf-8", "surrogateescape") for one in chosen]
