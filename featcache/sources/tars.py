"""Tar files in WebDataset's layout, read in their own order; nothing is unpacked."""

from __future__ import annotations

import array
import json
import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from featcache.errors import ImageError, SourceError, one_line
from featcache.files.publishing import change_stamp
from featcache.sources.columns import Words
from featcache.sources.folders.branches import Branch, branches, classes_in
from featcache.sources.folders.classes import check_inside
from featcache.sources.folders.trees import Look
from featcache.sources.messages import excluded, number_of, quoted
from featcache.sources.names import TAR_NAME, Exclusion, is_litter, known_splits, may_be_image
from featcache.sources.options import NO_OPTIONS, SourceOptions
from featcache.sources.source import Item, Items, counted, sole_content
from featcache.sources.tables.rows import json_label

log = logging.getLogger(__name__)

_LABELS = (".cls", ".label", ".txt", ".json")  # the first one that is there counts
_LABEL_BYTES = 1 << 20
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOCK = tarfile.BLOCKSIZE
_DEEP = 64  # folders: what lies deeper says nothing about classes, and names of members may be megabytes long
_FOLDER, _LABEL = "f", "l"  # what the text of a label begins with until it is known what folders mean


class _Member(NamedTuple):
    """A file in a tar, and where its bytes lie."""

    name: str
    offset: int
    size: int


@dataclass(slots=True)
class _Sample:
    """An image, and what says its label."""

    image: _Member | None = None
    label: _Member | None = None
    kind: str = ""

    @property
    def listed(self) -> _Member:
        """The image; where there is none what has been found, so that reading it gives the reason."""
        found = self.image or self.label
        assert found is not None
        return found


class TarSource:
    """Images in tar files; paths are ``<tar>/<member>``, or ``<member>`` of a single one.

    Every member is an image, unless its name is certainly that of something else. Those that end in ``.cls``,
    ``.label``, ``.txt`` or ``.json`` say the label of the image of the same name up to its last extensions (``a.jpg``
    or ``a.rgb.jpg`` beside ``a.cls``), the first kind in this order that there is (of JSON, ``label``); of several
    images beside one label the first counts. The label of other images is what `branches` says of their folders.
    Members are read where they lie and their names lead nowhere, whatever they are.
    """

    sequential = True

    def __init__(
        self, tars: list[Path], root: Path, options: SourceOptions, *, classes: Collection[str] | None, labelled: bool
    ) -> None:
        options.check("tar files", "exclude", "splits")
        self.options = options
        self.name = root.absolute().name.removesuffix(".tar") or "root"
        self.location = str(root.absolute())
        self._tars = [tar.absolute() for tar in tars]
        self._offsets = array.array("q")
        self._numbers = array.array("l")
        self._open = lru_cache(8)(_Descriptor)
        self._exclusion = Exclusion(options.exclude)
        splits = {} if root in tars or not labelled else _splits_of(tars, root, options)
        self._names = _Names(str(root))
        listed = Items.of(
            item
            for number, tar in enumerate(tars)
            for item in self._listed(number, tar, splits.get(tar), "" if root in tars else f"{tar.name}/")
        )
        self.items = _with_labels(listed, self._names, NO_OPTIONS if splits else options, classes, folders=labelled)
        if not self.items:
            raise SourceError(f"No images found: {str(root)!r} has no member.")
        self._exclusion.warn(str(root))

    def _listed(self, number: int, tar: Path, split: str | None, prefix: str) -> Iterator[Item]:
        status = tar.stat()  # before anything in it is read
        mtime_ns, changes = status.st_mtime_ns, change_stamp(status)
        samples, beside, others = _samples(tar, self._exclusion)
        for name in others:
            self._names.add(name)
        whys = "left out, as by name no image", "not read, as not the first beside a label"
        for names, why in zip((others, beside), whys, strict=True):
            if names:
                log.warning("%s: %s %s: %r", tar, number_of(len(names), "member is", "members are"), why, names[0])
        with tar.open("rb") as file:
            for sample in samples:
                name, offset, size = sample.listed
                place = len(self._offsets)
                self._offsets.append(offset)
                self._numbers.append(number)
                label = _label(file.fileno(), tar, sample)
                known = _FOLDER + self._names.add(name) if label is None else _LABEL + label
                yield Item(prefix + name, known, split, size, mtime_ns, None, place, changes)

    def read(self, item: Item, /) -> bytes:
        """Return a member's bytes; raise `ImageError` if they cannot be read."""
        tar = self._tars[self._numbers[item.place]]
        try:
            held = self._open(tar)  # for as long as it is read: another thread may drop it from the cache
            content = _read(held.number, item.size, self._offsets[item.place])
        except OSError as error:
            raise ImageError(f"cannot be read: {one_line(error.strerror or error)}") from None
        if len(content) < item.size:
            raise ImageError(f"cannot be read: {tar.name} was cut off after it was listed")
        return sole_content(content)


class _Descriptor:
    """A file descriptor that is closed when nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def _read(descriptor: int, size: int, offset: int) -> bytes:
    """Read at a place; several reads if the system gives less at once."""
    content = os.pread(descriptor, size, offset)
    while len(content) < size and (more := os.pread(descriptor, size - len(content), offset + len(content))):
        content += more
    return content


def _samples(path: Path, exclusion: Exclusion) -> tuple[list[_Sample], list[str], list[str]]:
    """Return a tar's samples by the place of their image, members that are beside another image, and no images."""
    labels: dict[str, _Sample] = {}
    images: list[_Member] = []
    others: list[str] = []
    names: set[str] = set()
    for member in counted(_members(path), str(path)):
        if any(map(is_litter, member.name.split("/"))) or exclusion.covers_any(member.name):
            continue
        if member.name in names:
            raise SourceError(
                f"{str(path)!r} has two members named {member.name!r}. Pack it again with each name once."
            )
        names.add(member.name)
        stem, suffix = os.path.splitext(member.name)  # noqa: PTH122
        if suffix.lower() not in _LABELS:
            if may_be_image(member.name):
                images.append(member)
            else:
                others.append(member.name)
            continue
        sample = labels.setdefault(stem, _Sample())
        if sample.label is None or _LABELS.index(suffix.lower()) < _LABELS.index(sample.kind):
            sample.label, sample.kind = member, suffix.lower()
    samples, beside = [], []
    for image in images:
        labelled = next((labels[stem] for stem in _stems(image.name) if stem in labels), None)
        if labelled is None:
            samples.append(_Sample(image))
        elif labelled.image is None:
            labelled.image = image
        else:
            beside.append(image.name)
    return sorted([*samples, *labels.values()], key=lambda sample: sample.listed.offset), beside, others


def _stems(name: str) -> Iterator[str]:
    """Yield a name without its last extension, then without the last two, and so on."""
    folder, slash, file = name.rpartition("/")
    while "." in file:
        file = file.rpartition(".")[0]
        yield folder + slash + file


def _members(path: Path) -> Iterator[_Member]:
    """Yield every file in a tar; raise `SourceError` unless it ends as it should."""
    try:
        with path.open("rb") as file:
            start = file.read(6)
            packing = next((name for magic, name in _PACKED.items() if start.startswith(magic)), None)
            if packing is not None:
                raise SourceError(
                    f"{str(path)!r} is compressed with {packing}, and only plain tar files can be read in place. "
                    "Decompress it; images do not become larger by that."
                )
            length, offset = os.fstat(file.fileno()).st_size, 0
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                tar.firstmember = None  # type: ignore[attr-defined]
                while True:
                    file.seek(offset)
                    plain = _plain(file.read(_BLOCK))
                    if plain is not None:
                        member = _Member(plain[0].removeprefix("./"), offset + _BLOCK, plain[1])
                        offset += _BLOCK * (1 + -(-member.size // _BLOCK))
                        yield member
                    else:
                        file.seek(offset)
                        tar.offset = offset
                        other = tar.next()
                        if other is None:
                            break
                        if other.size < 0 or tar.offset <= offset:  # back to members that were read already
                            raise tarfile.ReadError(f"a member of {other.size} bytes at byte {offset:,}")
                        offset = tar.offset
                        tar.members.clear()  # type: ignore[attr-defined]  # else all of them are held
                        if other.isreg() and not other.issparse():
                            yield _Member(other.name.removeprefix("./"), other.offset_data, other.size)
            file.seek(min(offset, length))
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise tarfile.ReadError(f"damaged or cut off at byte {offset:,}")
            if file.read(_LABEL_BYTES).strip(b"\0"):
                raise tarfile.ReadError(f"more follows its end at byte {offset:,}")
    except (OSError, EOFError, tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"The tar file {str(path)!r} is damaged: {reason}. Copy or pack it again.") from None


def _plain(header: bytes) -> tuple[str, int] | None:
    """Return name and size of a regular file whose header says it all; None if `tarfile` should look at it.

    That is three times as slow, and does the same for such headers.
    """
    size, checksum = header[124:136].rstrip(b" \0"), header[148:156].strip(b" \0")
    if header[156:157] != tarfile.REGTYPE or not size.isdigit() or not checksum.isdigit():
        return None
    try:
        if int(checksum, 8) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            return None
        name, prefix = (os.fsdecode(part.partition(b"\0")[0]) for part in (header[:100], header[345:500]))
        return (f"{prefix}/{name}" if prefix else name), int(size, 8)
    except ValueError:
        return None


def _label(descriptor: int, path: Path, sample: _Sample) -> str | None:
    """Return the label in the file beside an image, None if there is none."""
    if sample.label is None:
        return None
    name, offset, size = sample.label
    content = _read(descriptor, min(size, _LABEL_BYTES + 1), offset)
    text = content.decode("utf-8", "surrogateescape")
    try:
        if len(content) > _LABEL_BYTES:
            raise ValueError("more than a megabyte")
        if sample.kind != ".json":
            return text.strip() or None
        value: Any = json.loads(text)
        return json_label(value.get("label") if isinstance(value, dict) else None)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{name!r} of {str(path)!r} is no label: {' '.join(str(error).split())[:120]}.") from None


class _Names:
    """The folders of members, as `featcache.sources.folders.branches.branches` looks at them."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._found: dict[str, tuple[set[str], str | None, str | None]] = {"": (set(), None, None)}

    def add(self, member: str) -> str:
        """Note a file and return the folder it lies in, with a slash at its end."""
        *parts, file = [part for part in member.split("/") if part not in ("", ".")] or [""]
        parts = parts[:_DEEP]
        folder = "".join(f"{part}/" for part in parts)
        if folder not in self._found:
            above = ""
            for part in parts:
                self._found[above][0].add(part)
                above += f"{part}/"
                self._found.setdefault(above, (set(), None, None))
        folders, image, other = self._found[folder]
        kept = (image or file, other) if may_be_image(file) else (image, other or file)
        self._found[folder] = (folders, *kept)
        return folder

    def look(self, path: str, *, whole: bool = False) -> Look:
        """Return what lies in a folder."""
        folders, image, other = self._found[path]
        return Look(sorted(folders), image, other)


def _with_labels(
    listed: Items, names: _Names, options: SourceOptions, classes: Collection[str] | None, *, folders: bool
) -> Items:
    """Return items whose labels are those of label files and, if asked, folders, which may be splits, too."""
    known = listed.labels.names
    asked = folders and (any(map(_is_folder, known)) or options.splits)
    found = branches(names, options, classes, packed=True) if asked else []
    meanings = [_meaning(name[1:], found) if _is_folder(name) else (name[1:], None) for name in known]
    if any(branch.classes for branch in found):
        counts = zip(known, listed.labels.counts.tolist(), strict=True)
        held = {name[1:]: count for name, count in counts if _is_folder(name)}
        check_inside(names.where, classes_in(found), _inside(held, found), frozenset(classes or ()))
    labels = Words.of(label for label, _ in meanings).take(listed.labels.codes)
    splits = Words.of(split for _, split in meanings).take(listed.labels.codes)
    if folders and (bare := int((labels.codes < 0).sum())):
        said = number_of(bare, "image has no label", "images have no label")
        said = "no image has a label, so no head can be trained" if bare == len(listed) else said
        log.warning("%s: %s", names.where, said)
    return replace(listed, labels=labels, splits=listed.splits if listed.splits.names else splits)


def _is_folder(label: str) -> bool:
    return label.startswith(_FOLDER)


def _inside(held: Mapping[str, int], found: Sequence[Branch]) -> Counter[str]:
    """Return how many images are in each folder that lies in a class folder beside images, given those of folders."""
    inside: Counter[str] = Counter()
    for folder, count in held.items():
        branch = next((branch for branch in found if folder.startswith(branch.path)), None)
        parts = [] if branch is None or not branch.classes else folder[len(branch.path) :].split("/")
        if branch is not None and len(parts) > 2 and f"{branch.path}{parts[0]}/" in held:
            inside[f"{branch.path}{parts[0]}/{parts[1]}"] += count
    return inside


def _meaning(folder: str, found: Sequence[Branch]) -> tuple[str | None, str | None]:
    """Return label and split of the images in a folder."""
    for branch in found:
        if folder.startswith(branch.path):
            name, slash, _ = folder[len(branch.path) :].partition("/")
            return (name if slash and branch.classes is not None else None), branch.split
    return None, None


def _splits_of(tars: Sequence[Path], root: Path, options: SourceOptions) -> dict[Path, str]:
    """Return the splits that the beginnings of tar files' names mean, of all or of none."""
    starts = {tar: re.sub(r"[\W_]*\d*$", "", TAR_NAME.sub("", tar.name)) for tar in tars}
    known = known_splits(starts.values()) | options.split_of
    found = {tar: known[start] for tar, start in starts.items() if start in known}
    others = [tar.name for tar in tars if tar not in found]
    if found and others:
        example, other = next(iter(found)).name, others[0]
        raise SourceError(
            f"Some tar files of {str(root)!r} are splits by their names ({example!r}) and others are not ({other!r}). "
            f"Leave it out with {excluded(other)}, or say which split it is with "
            f"--split test={quoted(starts[root / other])}."
        )
    return found
