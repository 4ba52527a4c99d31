"""Folders of trained models: a card that says all that is known, the model's file, and what it was trained on.

Such a folder may carry its base in ``base``, see `featcache.saved.base`; the card says whether it does.

The card is JSON with size and SHA-256 of the model's file and of ``trained_on.bin`` and, as ``sha256``, its own;
``trained_on.bin`` holds the digests of the training images, 32 bytes each, sorted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.errors import HeadError, one_line
from featcache.files.publishing import TEMPORARY, draft_of, link_or_copy, publish, publish_json, swap_folder, sync_file
from featcache.files.reading import read_json, read_plain, trouble
from featcache.files.values import Kind, matching, record, sha256, whole
from featcache.recipe import canonical_json
from featcache.sources import DigestSet

_TRAINED_ON = "trained_on.bin"
_BASE = "base"

_FILE = {"size": whole(0), "sha256": sha256}
_NAMED_FILE = {"file": matching(r"[\w.]+", "the name of a file"), **_FILE}
_FILES = record({"model": record(_NAMED_FILE), "trained_on": record(_FILE)})


@dataclass(frozen=True)
class CheckedFolder:
    """What a folder held, checked: the card and its SHA-256, the model's file, digests of the training images."""

    card: dict[str, Any]
    model: bytes
    trained_on: DigestSet
    digest: str


@dataclass(frozen=True)
class ModelFolder:
    """A kind of folder: what it holds (``head``), its files, and the card's format; `beside` are files added later."""

    noun: str
    card: str
    model: str
    format: int
    says: Kind
    beside: frozenset[str] = frozenset()

    def check_target(self, folder: str | os.PathLike[str], *, base: bool = False) -> None:
        """Raise `HeadError` if a folder cannot be written or replaced, with a folder ``base`` or without."""
        target = Path(folder)
        if target.exists() and not target.is_dir():
            raise HeadError(f"{str(target)!r} is a file, not a folder. Choose another --out.")
        found = [path.name for path in sorted(target.glob("*")) if not path.name.startswith(TEMPORARY)]
        if found and not self._is_one(target):
            raise HeadError(
                f"The folder {str(target)!r} holds other files, such as {found[0]!r}, and no {self.noun} that "
                "featcache wrote. Choose another --out."
            )
        if base and _BASE in found and _BASE not in self._own(target):
            raise HeadError(
                f"{str(target / _BASE)!r} is in the way of the {self.noun}'s base, and featcache did not write it. "
                "Move it, or leave the base out with --no-bundle."
            )

    def write(
        self,
        folder: str | os.PathLike[str],
        write_model: Callable[[Path], Any],
        card: Mapping[str, Any],
        trained_on: Iterable[bytes],
        write_base: Callable[[Path], Any] | None = None,
    ) -> tuple[Path, str]:
        """Write a whole folder in the place of another, as `swap_folder` does; return its path and the card's digest.

        `write_model` and `write_base` are given a path. Files that others put there are kept, and so are the rights.
        """
        target = Path(folder)
        self.check_target(target, base=write_base is not None)
        place = target.resolve()  # of a link, what it leads to is replaced
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with draft_of(place) as draft:
                draft.mkdir()
                write_model(draft / self.model)
                model = file_record(draft / self.model)
                seen = DigestSet.of(trained_on).tobytes()
                publish(draft / _TRAINED_ON, seen)
                if write_base is not None:
                    write_base(draft / _BASE)
                complete = {
                    "format": self.format,
                    **card,
                    "base": write_base is not None,
                    "model": model,
                    "trained_on": {"size": len(seen), "sha256": hashlib.sha256(seen).hexdigest()},
                }
                digest = card_digest(complete)
                publish_json(draft / self.card, {**complete, "sha256": digest})
                if place.is_dir():
                    self._keep_others(place, draft)
                    _take_over_rights(place, draft)
                    os.utime(draft)  # gc takes an old draft for litter
                swap_folder(draft, place, rescue=lambda old: self._keep_others(old, place))
        except OSError as error:
            raise HeadError(f"{str(target)!r} cannot be written: {error.strerror or error}.") from None
        return target, digest

    def _keep_others(self, old: Path, new: Path) -> None:
        """Give what others put into a folder, and is not in the new one yet, a place there."""
        own = self._own(old)
        _carry_over(old, new, own.__contains__)
        if _BASE in own and (old / _BASE).is_dir():
            _carry_over(old / _BASE, new / _BASE, _of_a_base)
            if (new / _BASE).is_dir():
                _take_over_rights(old / _BASE, new / _BASE)

    def _own(self, folder: Path) -> set[str]:
        """Return the names in a folder that are replaced with it."""
        bundled = {_BASE} if self._said(folder).get("base") is True else set()
        return {self.card, self.model, _TRAINED_ON, *self.beside, *bundled}

    def _is_one(self, folder: Path) -> bool:
        """Return whether a folder has a card of this kind."""
        said = self._said(folder)
        return "format" in said and isinstance(said.get("model"), dict) and said["model"].get("file") == self.model

    def _said(self, folder: Path) -> dict[str, Any]:
        """Return what a folder's card says, unchecked; nothing where there is none."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
            said = read_json(folder / self.card)
            if isinstance(said, dict):
                return said
        return {}

    def read(self, folder: str | os.PathLike[str]) -> CheckedFolder:
        """Return what a folder holds, or raise `HeadError`; nothing of it is run."""
        path = Path(folder)
        card, digest = self.read_card(path)
        with self._explained(path):
            model = self._content(path / self.model, card["model"])
            seen = self._content(path / _TRAINED_ON, card["trained_on"])
            return CheckedFolder(card, model, DigestSet.of([seen]), digest)

    def read_card(self, folder: str | os.PathLike[str]) -> tuple[dict[str, Any], str]:
        """Return what a folder's card says, without its own digest, and that digest; errors are those of `read`."""
        path = Path(folder)
        with self._explained(path):
            card = read_json(path / self.card)
            record({"format": whole()})(card, "")
            digest = card.pop("sha256", None)
            if card["format"] != self.format:
                raise HeadError(
                    f"The {self.noun} {str(path)!r} has format {card['format']}, and this version reads format "
                    f"{self.format}. Make it again."
                )
            _FILES(card, "")
            if digest != card_digest(card) or card["model"]["file"] != self.model:
                raise self._changed(path / self.card)
            self.says(card, "")
            return card, digest

    def _content(self, file: Path, stated: Mapping[str, Any]) -> bytes:
        """Return what is in a file whose size and digest are known."""
        try:
            content = read_plain(file, size=stated["size"])
        except ValueError:
            raise self._changed(file) from None
        if hashlib.sha256(content).hexdigest() != stated["sha256"]:
            raise self._changed(file)
        return content

    @contextlib.contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        """Say of a folder that cannot be read whether it is damaged, or what else is in the way."""
        try:
            yield
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            what = f"has no {missing}" if path.exists() else "does not exist"
            raise HeadError(f"{str(path)!r} is not the folder of a {self.noun}: it {what}. {_instead(path)}") from None
        except (OSError, ValueError) as error:
            if (reason := trouble(error)) is not None:
                raise HeadError(f"The {self.noun} in {str(path)!r} cannot be read: {reason}") from None
            raise self.damaged(path, error) from None

    def damaged(self, path: Path, error: Exception) -> HeadError:
        """Return the error for a card that says nonsense."""
        return HeadError(f"The {self.noun} in {str(path)!r} is damaged: {self.card}: {one_line(error)}. Make it again.")

    def _changed(self, path: Path) -> HeadError:
        return HeadError(f"{str(path)!r} was changed after the {self.noun} was written. Make it again.")


def _carry_over(old: Path, new: Path, is_own: Callable[[str], bool]) -> None:
    """Give what others put into a folder, and is not in the new one yet, a place there."""
    for entry in sorted(old.iterdir()):
        if is_own(entry.name):
            continue
        if not new.exists():
            new.mkdir()
            _take_over_rights(old, new)
        kept = new / entry.name
        if entry.is_dir() and not entry.is_symlink():
            made = not kept.exists()
            kept.mkdir(exist_ok=True)
            _carry_over(entry, kept, lambda name: False)
            if made:
                _take_over_rights(entry, kept)
        elif not os.path.lexists(kept):
            link_or_copy(entry, kept)
        elif not _are_same(entry.lstat(), kept.lstat()):
            raise FileExistsError(f"{entry.name!r} was replaced at the same time")


def _are_same(one: os.stat_result, other: os.stat_result) -> bool:
    """Return whether two files are one, or one a copy of the other that nobody changed."""
    return os.path.samestat(one, other) or (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def _take_over_rights(old: Path, new: Path) -> None:
    """Give a folder the owner, mode and times of another, as far as this user may."""
    stated = old.stat()
    for owner in (stated.st_uid, -1):
        with contextlib.suppress(OSError, AttributeError):  # Windows has no owners like that
            os.chown(new, owner, stated.st_gid)
            break
    shutil.copystat(old, new)


def _of_a_base(name: str) -> bool:
    """Return whether a file in the folder of a base is the base's, or what a runtime made of it."""
    return name in ("base.json", "base.keras") or name.endswith(".openvino")


def _instead(path: Path) -> str:
    """Return which folder may have been meant: of a cache, one of its heads."""
    if (path / "recipe.json").is_file():
        heads = sorted(path.glob("heads/[!.]*/head.json"))
        if heads:
            return f"It is a cache: name one of its heads, such as {str(heads[0].parent)!r}."
        return "It is a cache without heads: run fit-head first."
    return "Name one that fit-head or fine-tune wrote."


def file_record(file: Path) -> dict[str, Any]:
    """Make a file durable, and return its name, size and SHA-256 as a card has them."""
    sync_file(file)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"file": file.name, "size": file.stat().st_size, "sha256": digest}


def card_digest(card: Mapping[str, Any]) -> str:
    """Return SHA-256 of a card's canonical JSON, as it reads back."""
    return hashlib.sha256(canonical_json(json.loads(json.dumps(card))).encode()).hexdigest()
