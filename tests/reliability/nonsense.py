"""Put nonsense into files and make their checksums right again, so that only the values are wrong."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import random
import sqlite3
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2,
    255,
    2**31,
    2**60,
    2**64,
    -(2**63),
    10**400,
    0.5,
    -1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    "/etc/passwd",
    "a\0b",
    "\ud800",
    "é" * 300,
    [],
    {},
    [[]],
    [None],
    ["x", "x"],
    {"x": 1},
    nested(300),
]
TEXTS = [
    "",
    "x",
    "../../x.h5",
    "/etc/passwd",
    ".",
    "a\0b",
    "é" * 300,
    "{",
    "[" * 100_000,
    '{"a":' * 50_000,
    "NaN",
    "1" * 5000,
    "9" * 4000,
]
NUMBERS = [-1, 0, 1, 7, 2**31 - 1, 2**31, 2**32, 2**40, 2**60, 2**63 - 1, -(2**63)]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value inside a JSON value, itself included."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inside for place in places(one, (*at, key)))]


def changed_json(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with nonsense somewhere in it: another value, one less, one more, or two exchanged."""
    whole = [copy.deepcopy(value)]
    parent: Any
    last: Any
    parent, last = whole, 0
    while parent[last] and isinstance(parent[last], dict | list) and (parent is whole or rng.randrange(3)):
        parent = parent[last]  # what lies near the top is changed more often
        last = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    kind = rng.randrange(10)
    if kind == 0:
        del parent[last]
    elif kind == 1 and isinstance(parent, dict):
        parent["nonsense"] = rng.choice(VALUES)
    elif kind == 2 and isinstance(parent, dict) and len(parent) > 1:
        other = rng.choice(list(parent))
        parent[last], parent[other] = parent[other], parent[last]
    elif kind == 3 and isinstance(parent[last], list):
        parent[last] = parent[last] * 2
    elif kind == 4 and isinstance(parent[last], int | float):
        parent[last] = -parent[last] - 1
    elif kind == 5:
        parent[last] = str(parent[last])
    elif kind == 6:
        parent[last] = [parent[last]]
    else:
        parent[last] = rng.choice(VALUES)
    return whole[0] if whole else None


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return a blob with another length, order or numbers."""
    kind, at = rng.randrange(9), rng.randrange(len(content) + 1)
    number = rng.choice(NUMBERS).to_bytes(8, "little", signed=True)
    width = rng.choice([1, 2, 4, 8])
    if kind == 0:
        return b""
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content + content
    if kind == 3:
        return content + bytes(rng.choice([1, 8, 32]))
    if kind == 4:
        return b"\xff" * len(content)
    if kind == 5:
        return bytes(len(content))
    if kind == 6:
        return content[::-1]
    if kind == 7 and content[:1] in (b"{", b"["):
        return json.dumps(changed_json(json.loads(content), rng)).encode("utf-8", "surrogatepass")
    at -= at % width
    return (content[:at] + number[:width] + content[at + width :])[: max(len(content), width)]


def changed_value(value: Any, rng: random.Random) -> Any:
    """Return another value for a column of a table."""
    if rng.randrange(4) == 0:
        return rng.choice([None, "x", "", b"", b"x", 1.5, *NUMBERS, *TEXTS])
    if isinstance(value, bytes):
        return changed_bytes(value, rng)
    if isinstance(value, int):
        return rng.choice([*NUMBERS, value + 1, -value, value * 2])
    with contextlib.suppress(ValueError):
        return json.dumps(changed_json(json.loads(value), rng)) if rng.randrange(5) else rng.choice(TEXTS)
    return rng.choice([*TEXTS, value + "x", f"../{value}", f"/{value}"])


def crc(values: tuple[Any, ...]) -> int:
    """Return a row's checksum, as docs/format.md says; of what has none there, anything."""
    content = b""
    for value in values:
        if isinstance(value, bytes):
            content += b"x" + value
        elif isinstance(value, str):
            content += b"t" + value.encode("utf-8", "surrogatepass")
        elif value is not None:
            content += b"%d" % value
        content += b"\x1f"
    return zlib.crc32(content)


def change_manifest(file: Path, rng: random.Random) -> str:
    """Change a value of a manifest, exchange two, or drop or double a row, and mend the checksums; say what."""
    db = sqlite3.connect(file, isolation_level=None)
    db.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
    table = rng.choice(["meta", "meta", "shards", "blocks", "rows", "listing", "listing", "settled"])
    names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    db.execute(f"CREATE TABLE new ({', '.join(names)})")  # without rules about its values
    rows = [list(row[:-1]) for row in db.execute(f"SELECT * FROM {table}")]
    row = rng.randrange(len(rows))
    column = rng.randrange(len(rows[0]))
    kind = rng.randrange(20)
    before = repr(rows[row][column])[:60]
    if kind == 0:
        del rows[row]
    elif kind == 1:
        rows.append([value + 1 if isinstance(value, int) else value for value in rows[row]])
    elif kind == 2 and len(rows) > 1 and names[column] not in ("positions", "digests"):
        other = rng.randrange(len(rows))
        rows[row][column], rows[other][column] = rows[other][column], rows[row][column]
    elif kind == 3:
        other = rng.randrange(len(rows[0]))
        rows[row][column], rows[row][other] = rows[row][other], rows[row][column]
    else:
        rows[row][column] = changed_value(rows[row][column], rng)
    value = rows[row][column] if row < len(rows) else None
    if table == "settled" and names[column] == "positions" and isinstance(value, bytes) and len(value) % 8 == 0:
        rows[row][column] = value and b"\xff" * len(value)  # another image's place is a sound statement
    now = repr(rows[row][column])[:60] if row < len(rows) else "gone"
    marks = ", ".join("?" * len(names))
    text = [
        [v.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if isinstance(v, str) else v for v in r]
        for r in rows
    ]
    db.executemany(f"INSERT INTO new VALUES ({marks})", [(*one, crc(tuple(one))) for one in text])
    db.execute(f"DROP TABLE {table}")
    db.execute(f"ALTER TABLE new RENAME TO {table}")
    db.close()
    return f"{table}.{names[column]} kind {kind}: {before} -> {now}"


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def change_card(file: Path, rng: random.Random, mend: Callable[[Any], None] = lambda card: None) -> str:
    """Change a value of a JSON file, let `mend` make its checksums right, and say what was changed."""
    before = json.loads(file.read_text())
    card = changed_json(before, rng)
    if rng.randrange(30) == 0:
        file.write_text(rng.choice(["[" * 100_000, '{"a":' * 100_000, "", "null", "[]", "{}", "\0"]))
        return f"{file.name}: a text"
    mend(card)
    file.write_text(json.dumps(card))
    ways = [way for way in places(before) if way and _at(before, way) != _at(card, way)] or [()]
    return f"{file.name}: {ways[-1]} {str(_at(before, ways[-1]))[:60]} -> {str(_at(card, ways[-1]))[:60]}"


def _at(value: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        try:
            value = value[key]
        except (LookupError, TypeError):
            return "gone"
    return value


def signed(card: Any) -> None:
    """Give a card its own digest anew."""
    if isinstance(card, dict):
        card.pop("sha256", None)
        with contextlib.suppress(ValueError, RecursionError):
            card["sha256"] = hashlib.sha256(canonical(card)).hexdigest()


def fingerprinted(card: Any) -> None:
    """Give a recipe.json the fingerprint of its recipe."""
    if isinstance(card, dict) and "recipe" in card:
        with contextlib.suppress(ValueError, RecursionError):
            card["fingerprint"] = hashlib.sha256(canonical(card["recipe"])).hexdigest()


def kept_result(card: Any) -> None:
    """Give a result the digest of what it holds."""
    if isinstance(card, dict):
        with contextlib.suppress(ValueError, RecursionError):
            card["sha256"] = hashlib.sha256(canonical([card.get("of"), card.get("result")])).hexdigest()


def change_estimator(folder: Path, rng: random.Random) -> str:
    """Change a head's estimator (a member of its archive) and mend the checksums in its card; say what."""
    file = folder / "model.skops"
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    if name == "schema.json" or rng.randrange(3) == 0:
        name = "schema.json"
        members[name] = json.dumps(changed_json(json.loads(members[name]), rng)).encode()
    else:
        members[name] = changed_bytes(members[name], rng)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for one, data in members.items():
            archive.writestr(one, data)
    file.write_bytes(content.getvalue())
    card = json.loads((folder / "head.json").read_text())
    card["model"] |= {"sha256": hashlib.sha256(content.getvalue()).hexdigest(), "size": len(content.getvalue())}
    signed(card)
    (folder / "head.json").write_text(json.dumps(card))
    return f"model.skops: {name}"
