"""What a report is about: a head, a fine-tuned model or a cache, and what lies beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featcache.cache import FeatureCache
from featcache.errors import CacheError, HeadError, OptionError, SourceError
from featcache.heads import Head, store
from featcache.models import folder as models
from featcache.models.folder import PixelModel, is_model
from featcache.recipe import Recipe
from featcache.sources import Source
from featcache.sources.opening import reopen
from featcache.training.comparison import rows_digest
from featcache.training.results import all_kept


@dataclass
class Subject:
    """The folder that was named, its features if they are still there, and what answers: of a cache its best head.

    `notes` are what a reader must know; they grow.
    """

    path: Path
    cache: FeatureCache | None
    model: Head | PixelModel | None
    notes: list[str] = field(default_factory=list)

    @property
    def card(self) -> dict[str, Any]:
        """All that is known of the model; empty without one."""
        return {} if self.model is None else self.model.card

    @property
    def is_cache(self) -> bool:
        """Whether a cache was named, not a model."""
        return self.cache is not None and self.cache.path == self.path

    @property
    def clf(self) -> str:
        """The kind of the head, ``fine-tuned`` of a whole model."""
        return self.model.clf if isinstance(self.model, Head) else "fine-tuned"

    @property
    def recipe(self) -> Recipe | None:
        """How pixels became features."""
        if self.cache is not None:
            return self.cache.recipe
        return Recipe.from_dict(self.card["recipe"]) if "recipe" in self.card else None

    @property
    def request(self) -> dict[str, Any] | None:
        """The request for the base; None of a model in memory, or of features from elsewhere."""
        kept: Mapping[str, Any] = self.card if self.cache is None else self.cache.description
        return kept.get("request")

    @property
    def base(self) -> str:
        """The base's name."""
        named: Any = (self.request or {}).get("base")
        if isinstance(named, dict):
            return Path(named["file"]).stem
        return str(named or "a model in memory")

    @property
    def listing(self) -> dict[str, Any]:
        """How the source was listed and split."""
        return self.card.get("listing", {}) if self.cache is None else self.cache.listing_options

    @property
    def source(self) -> dict[str, Any]:
        """The source's name, location and options."""
        found: dict[str, Any] = self.card.get("source", {}) if self.cache is None else self.cache.source
        return found

    def open_source(self) -> Source | None:
        """Return where the images are, None (and a note) if that cannot be read."""
        try:
            return reopen(self.source, classes=self.listing.get("classes"))
        except (SourceError, OptionError, OSError) as error:
            elsewhere = self.recipe is not None and self.recipe.spec is not None
            self.notes.append(f"No pictures: {'the features came from elsewhere.' if elsewhere else error}")
            return None


def open_subject(path: Path) -> Subject:
    """Return what a folder holds; OptionError if it is neither a head's, a model's nor a cache's."""
    if (path / "recipe.json").is_file():
        cache = FeatureCache(path)
        best = _best_head(cache)
        subject = Subject(path, cache, best)
        if best is None:
            subject.notes.append(
                "The cache has no head yet, so nothing is said about accuracy: run featcache fit-head."
            )
        return subject
    if is_model(path):
        model: Head | PixelModel = PixelModel.load(path)
    elif (path / "head.json").is_file():
        model = Head.load(path)
    else:
        raise OptionError(
            f"{str(path)!r} is no head, no fine-tuned model and no cache. Name a folder that fit-head, "
            "fine-tune or extract wrote."
        )
    missing = {"recipe", "source", "listing", "cache"} - set(model.card)
    if missing:
        raise HeadError(
            f"The head {str(path)!r} does not say which images it is of: {', '.join(sorted(missing))} is "
            "missing. Train it again with `featcache fit-head`."
        )
    return _beside(path, model)


def _beside(path: Path, model: Head | PixelModel) -> Subject:
    """Return a model with its cache, if that is still what it was trained on."""
    around = [one for one in path.absolute().parents[1:2] if (one / "recipe.json").is_file()]  # <cache>/heads/<head>
    try:
        cache = FeatureCache(around[0] if around else model.card["cache"])
    except CacheError as error:
        return Subject(path, None, model, [f"The cache it was trained on is gone, so there is no map: {error}"])
    if cache.recipe != Recipe.from_dict(model.card["recipe"]):
        return Subject(path, None, model, ["Its cache has another recipe by now, so there is no map of the features."])
    return Subject(path, cache, model)


def cards(cache: FeatureCache) -> list[tuple[Path, dict[str, Any]]]:
    """Return folder and card of every sound head and model in a cache's folder."""
    found = []
    for folder in sorted(cache.path.glob("heads/[!.]*/")):
        for kind in (store.FOLDER, models.FOLDER):
            if (folder / kind.card).is_file():
                with contextlib.suppress(HeadError):  # fit-head and evaluate say what is wrong with it
                    found.append((folder, kind.read_card(folder)[0]))
    return found


def scored_on(card: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the metrics that a card's model is ranked by, empty without any, and of which images they are."""
    found = card.get("metrics", {}).get("validation")
    if found:
        return found, "validation"
    return card.get("cross_validation") or {}, "folds of train"


def _best_head(cache: FeatureCache) -> Head | None:
    """Return the saved head of the current recipe that is most accurate on validation, or else on folds."""
    ranked = [
        (scored_on(card)[0]["accuracy"], folder)
        for folder, card in cards(cache)
        if "clf" in card
        and card.get("layer") in cache.layers
        and card.get("recipe") == cache.recipe.to_dict()
        and scored_on(card)[0]
    ]
    for _, folder in sorted(ranked, key=lambda pair: (-pair[0], str(pair[1]))):
        try:
            return Head.load(folder)
        except HeadError:
            continue
    return None


@dataclass(frozen=True)
class Standing:
    """One head's result: the parameters that were set or found, its scores, and what they were `measured_on`.

    `origin` is ``compare``, or the name of the saved head's folder and whether the report is about it.
    """

    clf: str
    layer: str
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]
    fit_seconds: float | None
    origin: str
    measured_on: str


@dataclass(frozen=True)
class Standings:
    """All of a cache's, the most accurate first; `stale` results are of other images, labels or splits than now."""

    rows: list[Standing]
    stale: int


def standings(cache: FeatureCache, subject: Subject) -> Standings:
    """Return what is known of a cache's heads and of the subject; results of other rows than it has now are counted."""
    rows, stale = [], 0
    kept = list(all_kept(cache.path))
    now = rows_digest(cache) if kept else ""
    for of, result in kept:
        settings = of.get("settings")
        if settings is None:  # no result of `compare`
            continue
        if of.get("rows") != now:
            stale += "on" not in of
        elif "on" not in of:
            on = "validation" if result["selected_on"] == "validation" else "folds of train"
            measured = result["params"], result["metrics"], result["fit_seconds"]
            rows.append(Standing(settings["clf"], of["layer"], *measured, "compare", on))
    saved = {folder.resolve(): card for folder, card in cards(cache)}
    own = None if subject.model is None or subject.model.path is None else subject.model.path.resolve()
    if own is not None:
        saved[own] = subject.card
    for folder, card in saved.items():
        found, on = scored_on(card)
        if found and card.get("recipe") == cache.recipe.to_dict():
            head = card.get("head") or {}
            clf = card["clf"] if "clf" in card else f"fine-tuned {head.get('clf', '')}".strip()
            params = card.get("params", head.get("params", {}))
            seconds = card.get("fit_seconds", card.get("seconds"))
            layer = card.get("layer", head.get("layer", ""))
            name = f"{folder.name}, this one" if folder == own else folder.name
            rows.append(Standing(clf, layer, params, found, seconds, name, on))
    rows.sort(key=lambda row: (-row.metrics["accuracy"], row.metrics.get("log_loss", 0.0)))
    return Standings(rows, stale)
