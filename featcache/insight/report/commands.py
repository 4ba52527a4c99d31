"""The commands that make again what a report is about."""

from __future__ import annotations

import shlex
from dataclasses import replace

from featcache.insight.provenance import extract_options, fine_tune_options, fit_head_options
from featcache.insight.report.subject import Subject
from featcache.options import ReadingOptions, command_line


def commands(subject: Subject, *, audited: bool = False) -> list[str]:
    """Return lines for a shell, comments where something cannot be made again by a command."""
    lines, card, folder = _extract(subject), subject.card, _folder(subject)
    if subject.clf == "fine-tuned" and card:
        head = card.get("head") or {}
        place = head.get("path") or "HEAD"
        lines.append(command_line("fit-head", fit_head_options(head, cache=folder, out=place)))
        tuning = fine_tune_options(card.get("options", {}), head=place, out=str(subject.path))
        lines.append(command_line("fine-tune", tuning))
    elif subject.model is not None:
        place = str(subject.model.path)
        lines.append(command_line("fit-head", fit_head_options(card | {"clf": subject.clf}, cache=folder, out=place)))
    if subject.is_cache:
        lines.append(shlex.join(["featcache", "compare", folder]))
    if subject.model is not None:
        lines.append(shlex.join(["featcache", "evaluate", str(subject.model.path)]))
    return [*lines, shlex.join(["featcache", "report", str(subject.path), *(["--audit"] if audited else [])])]


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
    chosen = ["--layer", layer] if layer != cache.layer_name(None) else []
    audit = ["featcache", "audit", folder]
    lines = ["# All findings as a table:", shlex.join([*audit, *chosen, "--out", "findings.csv"])]
    if not files:
        return [*lines, "# A source without what you drop can be made of folders and tables, where they lie."]
    lines += [
        "# Write drop into its column action, or relabel and the class into new_label, save it as drop.csv, then:",
        shlex.join([*audit, "--apply", "drop.csv", "--out", "cleaned.csv"]),
    ]
    if subject.request is not None:
        lines += ["# No feature is computed again:", *_extract(subject, "cleaned.csv")]
    return lines


def _extract(subject: Subject, cleaned: str | None = None) -> list[str]:
    """Return how the cache was made; or is made of a table instead, which has the splits already."""
    if subject.recipe is not None and subject.recipe.spec is not None:
        return ["# The features came from elsewhere: FeatureCache.from_arrays(…)"]
    if subject.request is None:
        return ["# The base was a model in memory: featcache.extract(source, base=model, …)"]
    cache = subject.cache
    views = (0, None) if cache is None else (cache.views, cache.augmentation_policy)
    options = extract_options(subject.request, subject.listing, subject.source, views=views[0], policy=views[1],
                              cache=_folder(subject))  # fmt: skip
    if cleaned is not None:
        options = replace(
            options, source=cleaned, **vars(ReadingOptions()), validation_split=None, test_split=None, test_from=None
        )
    return [command_line("extract", options)]


def _folder(subject: Subject) -> str:
    return str(subject.card.get("cache", "CACHE") if subject.cache is None else subject.cache.path)
