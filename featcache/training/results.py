"""Results that are kept beside the features they come from, until something about them changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from featcache.errors import CacheError, one_line
from featcache.files.publishing import publish_json
from featcache.files.reading import read_json, trouble
from featcache.files.values import anything, mapping_of, record, text
from featcache.recipe import canonical_json
from featcache.saved.cards import check_result

log = logging.getLogger(__name__)


def keep(cache: Path, of: Mapping[str, Any], result: dict[str, Any]) -> None:
    """Keep what came out of a task, and all that decides it, as JSON; not in a cache that cannot be written to."""
    with contextlib.suppress(OSError):
        file = _file(cache, of)
        file.parent.mkdir(exist_ok=True)
        publish_json(file, {"of": of, "result": result, "sha256": _digest([of, result])})


def kept(cache: Path, of: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a result, None if there is none, or it is not what was kept.

    CacheError says that it cannot be read for a reason that says nothing of it, such as too many open files.
    """
    found = _read(_file(cache, of))
    return None if found is None or _digest(found[0]) != _digest(of) else found[1]


def all_kept(cache: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield (what decided it, result) of all that is kept, in no order that means anything."""
    for file in sorted((cache / "results").glob("*.json")):
        found = _read(file)
        if found is not None:
            yield found


def described_estimator(estimator: Any) -> str | None:
    """Return a text that is equal for estimators of one class and parameters only; None if there is none.

    Only scikit-learn's classes have one: their code is that of a version, other code may change under its name.
    """
    try:
        return _described(estimator)
    except ValueError:
        return None


def _described(value: Any) -> str:
    """Return the text of a parameter, or ValueError if two different ones could have the same."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_described, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_described(key)}: {_described(item)}' for key, item in value.items())}}}"
    kind = type(value)
    if kind.__module__.partition(".")[0] != "sklearn" or not hasattr(value, "get_params"):
        raise ValueError("it has no text of its own")
    params = ", ".join(f"{name}={_described(item)}" for name, item in value.get_params(deep=False).items())
    return f"{kind.__module__}.{kind.__qualname__}({params})"


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    try:
        value = read_json(file)
        _FILE(value, "")
        of, result = value["of"], value["result"]
        if value["sha256"] != _digest([of, result]):
            raise ValueError("it does not have its checksum")
        if "settings" in of:
            check_result(of, result)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        if (reason := trouble(error)) is not None:
            raise CacheError(f"The result {str(file)!r} cannot be read: {reason}") from None
        log.warning("the kept result %s is damaged and ignored: %s. It may be deleted.", file, one_line(error))
        return None
    return of, result


_FILE = record({"of": mapping_of(anything), "result": mapping_of(anything), "sha256": text})


def _file(cache: Path, of: Mapping[str, Any]) -> Path:
    return cache / "results" / f"{_digest(of)[:32]}.json"


def _digest(value: Any) -> str:
    plain = json.loads(json.dumps(value))
    return hashlib.sha256(canonical_json(plain).encode()).hexdigest()
