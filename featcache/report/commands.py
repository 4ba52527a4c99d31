"""The commands that make again what a report is about."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from featcache.report.subject import Subject
from featcache.sources import SourceOptions


def commands(subject: Subject, *, audited: bool = False) -> list[str]:
    """Return lines for a shell, comments where something cannot be made again by a command."""
    lines = _extract(subject)
    folder = str(subject.cache.path) if subject.cache is not None else str(subject.card.get("cache", "CACHE"))
    card = subject.card
    if subject.clf == "fine-tuned" and card:
        head = card.get("head") or {}
        place = head.get("path") or "HEAD"
        lines.append(_fit(folder, head.get("clf", "dense"), head.get("layer"), head.get("params") or {}, {}, place))
        lines.append(_fine_tune(place, card.get("options", {}), str(subject.path)))
    elif subject.model is not None:
        place = str(subject.model.path)
        lines.append(_fit(folder, subject.clf, card.get("layer"), card.get("params", {}), card, place))
    if subject.is_cache:
        lines.append(_joined("compare", folder))
    if subject.model is not None:
        lines.append(_joined("evaluate", str(subject.model.path)))
    lines.append(_joined("report", str(subject.path), ("audit", "" if audited else None)))
    return lines


def after_audit(subject: Subject, layer: str, *, files: bool) -> list[str]:
    """Return what to do about an audit's findings, with comments.

    Parameters
    ----------
    subject : Subject
        With its cache.
    layer : str
        Whose features were audited.
    files : bool
        Whether images are files, of which a cleaned source can be made.
    """
    cache = subject.cache
    assert cache is not None
    folder = str(cache.path)
    chosen = layer if layer != cache.layer_name(None) else None
    lines = ["# All findings as a table:", _joined("audit", folder, ("layer", chosen), ("out", "findings.csv"))]
    if not files:
        return [*lines, "# A source without what you drop can be made of folders and tables, where they lie."]
    lines += [
        "# Write drop into its column action, or relabel and the class into new_label, save it as drop.csv, then:",
        _joined("audit", folder, ("apply", "drop.csv"), ("out", "cleaned.csv")),
    ]
    if subject.request is not None:
        lines += ["# No feature is computed again:", *_extract(subject, "cleaned.csv")]
    return lines


def _extract(subject: Subject, cleaned: str | None = None) -> list[str]:
    """Return how the cache was made; or is made of a table instead, which has the splits already."""
    recipe, request, listing = subject.recipe, subject.request, subject.listing
    if recipe is not None and recipe.spec is not None:
        return ["# The features came from elsewhere: FeatureCache.from_arrays(…)"]
    if request is None:
        return ["# The base was a model in memory: featcache.extract(source, base=model, …)"]
    options: list[tuple[str, Any]] = [("base", _file(request["base"]))]
    options += [("base-set", f"{key}={_value(value)}") for key, value in request["settings"].items()]
    options += [("weights", _file(request["weights"])), *(("layer", layer) for layer in request["layers"])]
    size = request["image_size"]
    options += [
        ("pooling", request["pooling"]),
        ("image-size", None if size is None else f"{size[0]}x{size[1]}"),
        *((name, request[name]) for name in ("resize", "interpolation", "preprocess", "dtype")),
        *((name, request.get(name)) for name in ("precision", "runtime")),
        ("fast-decode", "" if request.get("decode") == "reduced" else None),
        ("classes", None if not listing.get("classes") else ",".join(listing["classes"])),
    ]
    if cleaned is None:
        options += [
            *SourceOptions.from_dict(subject.source.get("options", {})).command_line(),
            ("validation-split", listing.get("validation_split") or None),
            ("test-split", listing.get("test_split") or None),
            ("test-from", None if not listing.get("test_from") else "{}={}".format(*listing["test_from"])),
            ("seed", listing.get("seed") or request["seed"] or None),
        ]
    else:
        options.append(("seed", request["seed"] or None))
    policy = None if subject.cache is None else subject.cache.augmentation_policy
    if subject.cache is not None and subject.cache.views and policy is not None:
        options += [("views", subject.cache.views), ("augment", _augment(policy)), ("fill", policy.get("fill"))]
    folder = str(subject.cache.path) if subject.cache is not None else str(subject.card.get("cache", "CACHE"))
    source = cleaned or subject.source.get("location") or "SOURCE"
    return [_joined("extract", source, *options, ("cache", folder))]


def _fit(cache: str, clf: str, layer: str | None, params: Mapping[str, Any], card: Mapping[str, Any], out: str) -> str:
    options: list[tuple[str, Any]] = [("clf", clf), ("layer", layer)]
    options += [("set", f"{key}={_value(value)}") for key, value in params.items() if value is not None]
    method = card.get("calibration", {}).get("method")
    options += [("calibrate", None if method == "temperature" else method), ("seed", card.get("seed") or None)]
    return _joined("fit-head", cache, *options, ("out", out))


def _fine_tune(head: str, options: Mapping[str, Any], out: str) -> str:
    given: list[tuple[str, Any]] = []
    flags = {"all_layers": "all"}
    for key, value in options.items():
        if key == "augmentation" and value:
            given += [("augment", _augment(value)), ("fill", value["fill"])]
        elif isinstance(value, bool):
            given += [(flags.get(key, key.replace("_", "-")), "")] if value else []
        elif key != "augmentation":
            given.append((key.replace("_", "-"), value))
    return _joined("fine-tune", head, *given, ("out", out))


def _augment(policy: Mapping[str, Any]) -> str:
    parts = ["flip"] if policy.get("flip") else []
    parts += [
        f"{key}={value:g}"
        for key, value in policy.items()
        if key not in ("flip", "fill", "seed") and isinstance(value, int | float) and value
    ]
    return ",".join(parts)


def _file(value: Any) -> Any:
    return value["file"] if isinstance(value, Mapping) else value


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_value, value)) + ("," if len(value) == 1 else "")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _joined(command: str, argument: str, *options: tuple[str, Any]) -> str:
    """Return a command; options without a value are left out, those with an empty one are flags."""
    parts = ["featcache", command, shlex.quote(argument)]
    for name, value in options:
        if value is not None:
            parts.append(f"--{name}" if value == "" else f"--{name} {shlex.quote(str(value))}")
    return " ".join(parts)
