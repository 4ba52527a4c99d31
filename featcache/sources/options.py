"""How a source is to be read, where that does not follow from what lies there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.errors import OptionError
from featcache.options import ReadingOptions, flag_of, options_of
from featcache.sources.names import known_splits
from featcache.sources.source import SPLITS


class SourceOptions(ReadingOptions):
    """How a source is to be read; raises `OptionError` if a split is unknown, a name stands for two, or a value is
    empty.

    `splits` has the source's names of each split: ``{"train": "fold1", "test": ["fold2", "fold3"]}``. Paths of items
    stay relative to a table's folder, whatever `images` is.
    """

    def __post_init__(self) -> None:
        globs = (self.exclude,) if isinstance(self.exclude, str) else tuple(self.exclude)
        if not all(isinstance(glob, str) and glob.strip("/ ") for glob in globs):
            raise OptionError(f"exclude takes globs such as '*.bak' or 'predictions'. Received: {list(globs)!r}.")
        object.__setattr__(self, "exclude", globs)
        object.__setattr__(self, "splits", _checked_splits(self.splits or {}))
        if isinstance(self.images, os.PathLike):
            object.__setattr__(self, "images", os.fspath(self.images))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("exclude", "splits") and value is not None and not (isinstance(value, str) and value):
                raise OptionError(f"{field.name} takes a name. Received: {value!r}.")

    @property
    def split_of(self) -> dict[str, str]:
        """The split of each name that was given for one, in the order given."""
        return {name: split for split, names in (self.splits or {}).items() for name in names}

    def known_splits(self, names: Iterable[str]) -> dict[str, str]:
        """Return the split that each of some names means: as the options say, else by itself."""
        every = list(names)
        return known_splits(every) | {name: split for name, split in self.split_of.items() if name in every}

    @property
    def given(self) -> list[str]:
        """Names of the options that are not at their default."""
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name) not in ((), {}, None)]

    def check(self, kind: str, *possible: str) -> None:
        """Raise `OptionError` if an option was given that says nothing about a `kind` of source."""
        known = options_of(self)
        wrong = [f"{name} (--{flag_of(name, known[name][1])})" for name in self.given if name not in possible]
        if wrong:
            raise OptionError(f"{', '.join(wrong)} cannot be used with {kind}. Leave it out.")

    def to_dict(self) -> dict[str, Any]:
        """Return what is not at its default, for JSON; `images` absolute."""
        found = {name: getattr(self, name) for name in self.given}
        if self.images is not None:
            found["images"] = str(Path(self.images).absolute())
        if self.splits:
            found["splits"] = {split: list(names) for split, names in self.splits.items()}
        return found | ({"exclude": list(self.exclude)} if self.exclude else {})

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> SourceOptions:
        """Return what `to_dict` made a dictionary of; raise `OptionError` if it is none."""
        try:
            return cls(**kept)
        except (TypeError, ValueError, AttributeError) as error:
            raise OptionError(f"These are no options of a source: {kept!r:.200} ({error}).") from None


def _checked_splits(splits: Mapping[str, str | Sequence[str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for given, value in splits.items():
        split = known_splits([str(given)]).get(str(given))
        names = tuple(name.strip().rstrip("/") for name in ((value,) if isinstance(value, str) else value))
        if split is None or not names or not all(names):
            raise OptionError(
                f"splits (--split) takes SPLIT=NAME, such as train=fold1: SPLIT is one of {', '.join(SPLITS)}, and "
                "NAME is what the source calls it. Received: "
                f"{given}={','.join(names)}."
            )
        found[split] = (*found.get(split, ()), *names)
    everything = [name for names in found.values() for name in names]
    twice = sorted({name for name in everything if everything.count(name) > 1})
    if twice:
        raise OptionError(f"splits (--split) names {', '.join(map(repr, twice))} twice. Name each once.")
    return found


NO_OPTIONS = SourceOptions()
"""All at their defaults."""
