"""Put a report together and write it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featcache import charts
from featcache.errors import OptionError, printable
from featcache.files.publishing import publish
from featcache.insight.audit import AuditReport
from featcache.insight.audit import audit as look_for_bad_data
from featcache.insight.commands import commands
from featcache.insight.report import accuracy, findings, images
from featcache.insight.report.answers import Answers, ask
from featcache.insight.report.page import Cell, Commands, Facts, Page, Section, check_installed, render, table
from featcache.insight.report.pictures import Pictures
from featcache.insight.report.subject import Subject, open_subject, standings
from featcache.options import Progress
from featcache.system.progress import shown
from featcache.system.versions import versions


@dataclass(frozen=True)
class Report:
    """What was written: the page, its size, the keys of its sections, its charts as pictures if they were asked for.

    `accuracy` is ``split``, ``n`` and ``accuracy`` of the model's answers, `findings` the number of an audit's findings
    of each kind, `missing` path and reason of each image that could not be shown. The page says `notes`, too.
    """

    path: Path
    bytes: int
    sections: list[str]
    pngs: list[Path]
    accuracy: dict[str, Any] | None
    findings: dict[str, int] | None
    missing: dict[str, str]
    notes: list[str]


def report(
    subject: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    png: str | os.PathLike[str] | None = None,
    projection: str = "tsne",
    audit: bool | AuditReport = False,
    progress: bool | Progress = True,
) -> Report:
    """Write one HTML file about a head, a fine-tuned model or a cache; it needs no network and no other file.

    Parameters
    ----------
    subject : path
        The folder of a head, of a fine-tuned model, or of a cache, whose best head answers.
    out : path, optional
        The file; default: ``report.html`` in that folder.
    png : path, optional
        A folder for the charts as pictures, too.
    projection : {"tsne", "pca"}
        What lays the map of the features out.
    audit : bool or AuditReport
        What `featcache.audit` returned for the same cache is shown as it is; True looks for bad data first, in time
        that grows with the square of the images.
    progress : bool or callable
        Show a bar, or call a function with (done, to do), as images are compared and read.

    Returns
    -------
    Report
        What was written.

    Raises
    ------
    OptionError
        If the folder holds none of these, a library is missing, a file cannot be written, or there is no cache to
        audit.
    """
    check_installed()
    if projection not in ("tsne", "pca"):
        raise OptionError(f"`projection` must be tsne or pca. Received: {projection!r}.")
    opened = open_subject(Path(subject))
    target = Path(out) if out is not None else opened.path / "report.html"
    audited = _audited(opened, audit, progress)
    with shown(progress, "reading images") as show:
        answers = ask(opened, show)
        page, pictures = _page(opened, answers, audited, projection, show)
    html = render(page).encode("utf-8", "backslashreplace")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        publish(target, html)
        pngs = [] if png is None else _draw(page, Path(png))
    except OSError as error:
        raise OptionError(
            f"The report {str(error.filename or target)!r} cannot be written: {error.strerror}. Choose another `out`."
        ) from None
    found = None
    if answers is not None:
        found = {"split": answers.split, "n": len(answers), "accuracy": float(answers.right.mean())}
    keys = [section.key for section in page.sections]
    counts = None if audited is None else audited.counts
    return Report(target, len(html), keys, pngs, found, counts, pictures.missing, list(page.notes))


def _audited(subject: Subject, audit: bool | AuditReport, progress: bool | Progress) -> AuditReport | None:
    """Return an audit of the subject's cache, if one is wanted."""
    if audit is False:
        return None
    if subject.cache is None:
        raise OptionError(
            f"There is nothing to audit: the cache of the model {str(subject.path)!r} is gone or has another "
            "recipe. Name a cache, or leave out `audit`."
        )
    if audit is True:
        return look_for_bad_data(subject.cache, progress=progress)
    if audit.cache.resolve() != subject.cache.path.resolve():
        raise OptionError(
            f"The audit is of {str(audit.cache)!r}, but the report is of {str(subject.cache.path)!r}. Audit "
            "the cache of the report."
        )
    return audit


def _page(
    subject: Subject,
    answers: Answers | None,
    audited: AuditReport | None,
    projection: str,
    progress: Progress | None,
) -> tuple[Page, Pictures]:
    cache = subject.cache
    found = None
    points: list[str] = []
    paths: list[str] = []
    viewed: list[str] = []
    if cache is not None:
        layer = str(subject.card.get("layer") or (subject.card.get("head") or {}).get("layer") or "")
        layer = layer if layer in cache.layers else cache.layer_name(None)
        found = images.feature_map(cache, layer, answers, method=projection) if len(cache) else None
        paths, viewed = images.sampled(cache)
        points = [] if found is None else [cache.usable[i].path for i in found.images]
    pictures = Pictures(subject.open_source() if answers is not None or cache is not None else None)
    asked = images.shown(answers) if answers is not None else []
    doubtful = findings.shown(audited) if audited is not None else []
    pictures.find([*points, *paths, *viewed, *asked, *doubtful])
    if points:
        pictures.of(points, progress=progress)
    sections: list[Section | None] = []
    if subject.card.get("metrics"):
        chosen = subject.card.get("selected_on") or ("validation" if subject.is_cache else None)
        sections.append(accuracy.by_split(subject.card["metrics"], chosen, subject.card.get("cross_validation")))
    if answers is not None:
        sections += [accuracy.confusion(answers), accuracy.classes(answers), accuracy.calibration(answers)]
        sections += [images.mistakes(answers, pictures), images.doubts(answers, pictures)]
    if audited is not None:
        sections.append(findings.audited(subject, audited, pictures))
    if cache is not None and found is not None:
        sections.append(images.mapped(cache, answers, found, pictures))
    if cache is not None:
        known = standings(cache, subject)
        sections += [accuracy.leaderboard(known), accuracy.layers(cache, known)]
    sections.append(accuracy.learning(subject))
    if cache is not None and subject.recipe is not None and subject.recipe.spec is None:
        sections.append(images.samples(cache, subject.recipe, paths, viewed, pictures))
    if cache is not None:
        sections.append(_data(subject))
    text = "The same files, options and seeds give the same numbers; with other versions they may differ a little."
    again = Section("again", "How to make it again", [text], [Commands(commands(subject, audited=audited is not None))])
    sections += [_provenance(subject), again]
    return _titled(subject, answers, [one for one in sections if one is not None], pictures), pictures


def _titled(subject: Subject, answers: Answers | None, sections: list[Section], pictures: Pictures) -> Page:
    notes = list(dict.fromkeys(subject.notes))
    notes += _differing(subject, answers)
    if answers is not None and answers.sampled_from is not None:
        notes.append(
            f"{answers.split} has {answers.sampled_from:,} images; {len(answers):,} drawn at random were asked."
        )
    if pictures.missing and not any(note.startswith("No pictures") for note in notes):
        path, reason = next(iter(pictures.missing.items()))
        notes.append(f"{len(pictures.missing):,} images could not be shown, the first of them {path}: {reason}.")
    name = subject.source.get("name") or subject.path.name
    features = subject.base if subject.recipe is None or subject.recipe.spec is None else "features from elsewhere"
    kicker = f"{features} on {name}"
    where = f" on {subject.card['layer']}" if subject.card.get("layer") else ""
    title = f"{name}: {subject.clf}{where}" if subject.model is not None else name
    paragraphs, figure, note = [], "", ""
    if answers is not None:
        paragraphs = accuracy.summary(answers)
        figure = accuracy.percent(float(answers.right.mean()))
        note = f"accuracy on {len(answers):,} {answers.split} images"
    elif subject.cache is not None:
        cache = subject.cache
        parts = ", ".join(f"{count:,} {split}" for split, count in cache.splits.items())
        paragraphs = [f"{len(cache):,} images of {len(cache.class_names):,} classes: {parts}."]
        if folds := subject.card.get("cross_validation"):
            figure = accuracy.percent(folds["accuracy"])
            note = f"accuracy on {folds['folds']} folds of {folds['n']:,} training images"
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    footer = f"Written by featcache {versions()['featcache']} on {now}. This page loads nothing from anywhere."
    return Page(title, f"featcache report · {kicker}", figure, note, paragraphs, sections, footer, notes)


def _differing(subject: Subject, answers: Answers | None) -> list[str]:
    """Say so if the model's answers now are not what was measured when it was made."""
    then = subject.card.get("metrics", {}).get(answers.split) if answers is not None else None
    if answers is None or then is None or answers.sampled_from is not None:
        return []
    if (then["n"], round(then["accuracy"] * then["n"])) == (len(answers), int(answers.right.sum())):
        return []
    return [
        f"When it was made, it was right for {round(then['accuracy'] * then['n']):,} of {then['n']:,} {answers.split} "
        f"images, now for {int(answers.right.sum()):,} of {len(answers):,}: images or labels have changed since."
    ]


def _data(subject: Subject) -> Section:
    """Return how many images there are of each class in each split."""
    cache = subject.cache
    assert cache is not None
    labels = {split: cache.label_indices(split) for split in cache.splits}
    rows = []
    for number, name in enumerate(cache.class_names[:200]):
        counts = [int((found == number).sum()) for found in labels.values()]
        rows.append([name, *(Cell(f"{n:,}", n) for n in [*counts, sum(counts)])])
    names = ("class", *(f"#{split}" for split in labels), "#in all")
    texts = []
    if cache.skipped:
        one = cache.skipped[0]
        texts.append(f"{len(cache.skipped):,} images could not be used, such as {one['path']}: {one['reason']}.")
    note = "" if len(cache.class_names) <= 200 else f"The first 200 of {len(cache.class_names):,} classes."
    shown = table("Images by class and split", names, rows, sortable=True, note=note)
    return Section("data", "The data", texts, [shown])


def _provenance(subject: Subject) -> Section:
    recipe, cache, card = subject.recipe, subject.cache, subject.card
    pairs: list[tuple[str, str]] = [("base", subject.base)] if subject.recipe and subject.recipe.spec is None else []
    if recipe is not None:
        pairs += [(key.replace("_", " "), _text(value)) for key, value in recipe.to_dict().items()]
        pairs.append(("fingerprint", recipe.fingerprint))
    pairs.append(("source", subject.source.get("location") or "unknown"))
    shown = {key: value for key, value in subject.listing.items() if key not in ("cutoffs", "shared")}
    pairs.append(("listing", _text(shown)))
    if cache is not None:
        pairs.append(("cache", str(cache.path.absolute())))
        if cache.views:
            views = f"{cache.views} of each training image: {_text(cache.augmentation_policy)}"
            pairs.append(("augmented views", views))
    if subject.model is not None:
        pairs.append(("model", str(subject.model.path)))
        pairs.append(("model’s digest", str(subject.model.digest)))
        for key in ("all_params", "calibration", "options", "trainable", "seed", "written"):
            if card.get(key) is not None:
                pairs.append((key.replace("_", " "), _text(card[key])))
    written: Any = card.get("versions") or (cache.description.get("versions") if cache is not None else None)
    if written:
        pairs.append(("versions", _text(written)))
    return Section("recipe", "Recipe and provenance", ["What decided the numbers."], [Facts(pairs)])


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items() if one not in (None, "", [], {}))
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)


def _draw(page: Page, folder: Path) -> list[Path]:
    """Write each chart as a PNG file, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for chart in page.charts:
        files.append(folder / f"{printable(chart.name)}.png")
        publish(files[-1], charts.png(chart.specification))
    return files
