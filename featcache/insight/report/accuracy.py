"""The sections about how good a model is: words, leaderboard, layers, curves, confusion, classes, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from featcache import charts
from featcache.cache import FeatureCache
from featcache.heads.showing import left_out_text
from featcache.insight.report.answers import Answers
from featcache.insight.report.page import Cell, Chart, Section, Table, table
from featcache.insight.report.subject import Standing, Standings, Subject
from featcache.training.metrics import calibration_bins, class_scores, wilson_interval

_MOST_ROWS = 200
_MOST_CLASSES = 40
"""So many classes a confusion matrix shows at most."""


def percent(value: float) -> str:
    """Return a part as percent with one decimal."""
    return f"{100 * value:.1f}%"


def interval(metrics: Mapping[str, Any], name: str = "accuracy") -> str:
    """Return a score's 95% interval in percent."""
    low, high = metrics[f"{name}_ci95"]
    return f"{100 * low:.1f}–{100 * high:.1f}%"


def summary(answers: Answers) -> list[str]:
    """Return in words how good the answers are, and where they fail."""
    n, right = len(answers), int(answers.right.sum())
    low, high = wilson_interval(right, n)
    counts = np.bincount(answers.truth, minlength=len(answers.class_names))
    common = int(counts.argmax())
    unseen = "it was not trained on" if answers.split != "train" else "that it was trained on, which proves little"
    texts = [
        f"It names the right class for {right:,} of {n:,} {answers.split} images {unseen}: {percent(right / n)}, with "
        f"a 95% interval from {100 * low:.1f} to {percent(high)}. Always saying “{answers.class_names[common]}” would "
        f"be right for {percent(counts[common] / n)}."
    ]
    wrong = answers.confusion
    np.fill_diagonal(wrong, 0)
    if wrong.any():
        true, predicted = np.unravel_index(int(wrong.argmax()), wrong.shape)
        scores = class_scores(answers.confusion, answers.class_names)
        seen = {name: one for name, one in scores.items() if one["n"]}
        weakest = min(seen, key=lambda name: seen[name]["recall"])
        texts.append(
            f"The weakest class is “{weakest}”: {percent(seen[weakest]['recall'])} of its {seen[weakest]['n']:,} "
            f"images are recognised. The commonest mistake is to take “{answers.class_names[true]}” for "
            f"“{answers.class_names[predicted]}”, {int(wrong[true, predicted]):,} times."
        )
    gap = float(answers.confidence.mean()) - right / n
    sign = "more" if gap > 0 else "less"
    texts.append(
        f"Its probabilities promise {percent(float(answers.confidence.mean()))} on average, {percent(abs(gap))} {sign} "
        "than it is right."
    )
    return texts


def by_split(metrics: Mapping[str, Any], selected_on: str | None, folds: Mapping[str, Any] | None = None) -> Section:
    """Return the scores of each split, as they were measured when the model was made, and on folds of train."""
    measured = dict(metrics)
    if folds:
        measured[f"{folds['folds']} folds of train"] = folds
    rows = []
    for split, m in measured.items():
        accuracy, f1, loss = percent(m["accuracy"]), percent(m["macro_f1"]), f"{m['log_loss']:.3f}"
        images = Cell(f"{m['n']:,}", m["n"])
        rows.append([split, images, accuracy, interval(m), f1, interval(m, "macro_f1"), loss, percent(m["ece"])])
    scores = ("#images", "#accuracy", "#95% interval", "#macro F1", "#95% interval", "#log loss", "#calibration error")
    texts = [
        "Intervals of accuracy are Wilson’s, of macro F1 a bootstrap over images. On train the model has seen the "
        "answers."
    ]
    if selected_on:
        texts.append(f"It was chosen by its score on {selected_on}, which therefore flatters it a little.")
    for split, m in metrics.items():
        copies, members = m.get("copies_left_out", 0), m.get("group_members_left_out", 0)
        if (text := left_out_text(split, copies, members, copies + members + m["n"])) is not None:
            texts.append(f"{text}.")
    if folds and not metrics.keys() - {"train"}:
        texts.append(
            "No image of another split counts, so the figure to go by is that on folds: heads trained on the others, "
            "with no group divided."
        )
    return Section("scores", "Scores", texts, [table("Scores when it was made", ("split", *scores), rows)])


def leaderboard(found: Standings) -> Section:
    """Return a sortable table of every head that was trained on the cache."""
    texts = []
    if found.stale:
        texts.append(
            f"{found.stale} kept results are of other images, labels or splits than the cache has now, and are left "
            "out: run featcache compare again."
        )
    if not found.rows:
        return Section("leaderboard", "Leaderboard", [*texts, "Nothing was trained yet: run featcache compare."])
    measured = sorted({f"{one.metrics['n']:,} images of {one.measured_on}" for one in found.rows})
    several = len(measured) > 1
    on = ["measured on"] if several else []
    scores = ["#accuracy", "#95% interval", "#macro F1", "#log loss", "#calibration error", "#fitted in"]
    rows = []
    for one in found.rows[:_MOST_ROWS]:
        m = one.metrics
        seconds = Cell("", "") if one.fit_seconds is None else Cell(f"{one.fit_seconds:.2f} s", one.fit_seconds)
        accuracy = Cell(percent(m["accuracy"]), m["accuracy"]), Cell(interval(m), m["accuracy_ci95"][0])
        place = [f"{m['n']:,} images of {one.measured_on}"] if several else []
        params = ", ".join(f"{key}={_short(value)}" for key, value in one.params.items() if value is not None)
        rows.append([one.clf, one.layer, *accuracy, *_scored(m), seconds, *place, params, one.origin])
    texts.append("The most accurate first; of heads whose intervals overlap much, take the cheaper one.")
    caption = "Heads on these features" + ("" if several else f", measured on {measured[0]}")
    note = "" if len(found.rows) <= _MOST_ROWS else f"The best {_MOST_ROWS} of {len(found.rows):,}."
    shown = table(caption, ["head", "layer", *scores, *on, "parameters", "from"], rows, sortable=True, note=note)
    return Section("leaderboard", "Leaderboard", texts, [shown])


def _scored(metrics: Mapping[str, Any]) -> list[Cell]:
    """Return macro F1, log loss and calibration error, empty where they are not known."""
    f1, loss, ece = (metrics.get(name) for name in ("macro_f1", "log_loss", "ece"))
    written = [(f1, percent), (loss, "{:.3f}".format), (ece, percent)]
    return [Cell("", "") if value is None else Cell(text(value), value) for value, text in written]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def layers(cache: FeatureCache, found: Standings) -> Section | None:
    """Return accuracy by depth, None where the cache has one layer."""
    if len(cache.layers) < 2:
        return None
    known = [one for one in found.rows if one.layer in cache.layers and not one.clf.startswith("fine-tuned")]
    best: dict[str, Standing] = {}
    for one in known:
        best.setdefault(one.layer, one)
    if len(best) < 2:
        text = "Heads were not trained on several layers yet: run featcache compare, which trains on all of them."
        return Section("layers", "Which layer", [text])
    rows: list[dict[str, Any]] = []
    for one in known:
        low, high = one.metrics["accuracy_ci95"]
        row = {"layer": one.layer, "head": one.clf, "accuracy": one.metrics["accuracy"], "low": low, "high": high}
        rows.append(row | {"best": best[one.layer] is one})
    cells = []
    for layer in cache.layers:
        if layer in best:
            one = best[layer]
            shape = "×".join(map(str, cache.layers[layer]))
            cells.append([layer, shape, one.clf, percent(one.metrics["accuracy"]), interval(one.metrics)])
    first = max(best.values(), key=lambda one: float(one.metrics["accuracy"])).layer
    last = list(cache.layers)[-1]
    text = f"“{first}” does best. " + (
        "It is the deepest: a deeper one may do better still."
        if first == last
        else "Deeper layers know more of what the base was trained for, and less of these images."
    )
    names = ("layer", "values", "best head", "#accuracy", "#95% interval")
    description = "Accuracy on validation by layer; the table below has the numbers."
    chart = Chart("layers", charts.depth(rows, list(cache.layers)), "Accuracy by layer", description)
    return Section("layers", "Which layer", [text], [chart, table("The best head of each layer", names, cells)])


def learning(subject: Subject) -> Section | None:
    """Return learning curves, None of a head that has no epochs."""
    history = subject.card.get("history") or {}
    phases = {"head": history}
    if "fine_tune" in history:
        phases = {"head": history.get("head") or {}, "fine-tune": history["fine_tune"]}
    blocks = []
    for measure in ("accuracy", "loss"):
        specification = charts.curve(phases, measure)
        if specification is not None:
            text = f"{measure.capitalize()} by epoch, on training and validation images."
            blocks.append(Chart(f"learning-{measure}", specification, measure.capitalize(), text))
    if not blocks:
        return None
    texts = []
    if phases["head"] and phases.get("fine-tune"):
        texts.append(
            "Left of the dashed line the head alone was trained, right of it base and head together. The head’s "
            "validation are training images that were held out, fine-tuning’s is the validation set."
        )
    if stopped := subject.card.get("stopped"):
        texts.append(f"Stopped in epoch {stopped['epoch']}: {stopped['reason']}.")
    if "before" in subject.card:
        scores = {when: subject.card[when].get("validation") for when in ("before", "after")}
        parts = [f"{when} {percent(m['accuracy'])} ({interval(m)})" for when, m in scores.items() if m]
        kept = f"The {'tuned weights' if subject.card.get('kept') == 'tuned' else 'weights from before'} are kept."
        texts.append(f"Accuracy on validation {', '.join(parts)}. {kept}")
    return Section("learning", "Learning curves", texts, blocks)


def confusion(answers: Answers) -> Section:
    """Return the confusion matrix as a chart and a table, of many classes those that are confused most."""
    counts, names = answers.confusion, answers.class_names
    off = counts.copy()
    np.fill_diagonal(off, 0)
    texts = [f"On {len(answers):,} {answers.split} images. Rows are the true class, columns the predicted one."]
    shown = np.arange(len(names))
    if len(names) > _MOST_CLASSES:
        shown = np.sort(np.argsort(-(off.sum(axis=0) + off.sum(axis=1)), kind="stable")[:_MOST_CLASSES])
        texts.append(f"Shown are the {_MOST_CLASSES} classes of {len(names):,} that take part in most mistakes.")
    part, labels = counts[np.ix_(shown, shown)], [names[i] for i in shown]
    specification, description = charts.confusion(part.tolist(), labels), "Confusion matrix; the table has the numbers."
    chart = Chart("confusion", specification, "Confusion matrix", description, fixed=True)
    blocks: list[Chart | Table] = [chart]
    pairs = np.argsort(-off, axis=None, kind="stable")[:20]
    found = [(int(i), int(j)) for i, j in zip(*np.unravel_index(pairs, off.shape), strict=True) if off[i, j]]
    if found and len(names) > 2:
        rows = [[names[i], names[j], f"{off[i, j]:,}", percent(off[i, j] / counts[i].sum())] for i, j in found]
        blocks.append(table("What is confused most", ("true", "taken for", "#times", "#of the class"), rows))
    if len(names) <= 12:
        rows = [
            [name, *(f"{n:,} · {percent(n / max(counts[i].sum(), 1))}" for n in counts[i])]
            for i, name in enumerate(names)
        ]
        columns = ["true \\ predicted", *(f"#{name}" for name in names)]
        blocks.append(table("Counts and percent of each row", columns, rows, broad=len(names) > 3))
    return Section("confusion", "Confusion", texts, blocks)


def classes(answers: Answers) -> Section:
    """Return precision, recall and F1 by class, the weakest first."""
    scores = class_scores(answers.confusion, answers.class_names)
    ranked = sorted(scores.items(), key=lambda pair: (pair[1]["n"] == 0, pair[1]["f1"]))
    rows = []
    for name, one in ranked[:_MOST_ROWS]:
        low, high = wilson_interval(round(one["recall"] * one["n"]), one["n"]) if one["n"] else (0.0, 1.0)
        shares = [Cell(percent(one[score]), one[score]) for score in ("precision", "recall", "f1")]
        shares.insert(2, Cell(f"{100 * low:.1f}–{100 * high:.1f}%", low))
        rows.append([name, Cell(f"{one['n']:,}", one["n"]), *shares])
    names = ("class", "#images", "#precision", "#recall", "#95% of recall", "#F1")
    note = "" if len(scores) <= _MOST_ROWS else f"The {_MOST_ROWS} weakest of {len(scores):,}."
    text = (
        "Precision: how many of the images that were given this class belong to it. Recall: how many of its images "
        "were found."
    )
    return Section("classes", "By class", [text], [table("Scores by class", names, rows, sortable=True, note=note)])


def calibration(answers: Answers) -> Section:
    """Return how far probabilities can be believed."""
    bins = []
    for one in calibration_bins(answers.confidence, answers.right):
        low, high = wilson_interval(round(one["accuracy"] * one["n"]), one["n"])
        bins.append({**one, "low": low, "high": high})
    error = sum(abs(one["confidence"] - one["accuracy"]) * one["n"] for one in bins) / len(answers)
    text = (
        f"Where the model says 80%, it should be right in 80 of 100 cases, on the dashed line. On average it is off "
        f"by {percent(error)} (expected calibration error). Bars are 95% intervals, larger dots more images."
    )
    rows = []
    for one in bins:
        low, high = 100 * one["low"], 100 * one["high"]
        shown = f"{low:.1f}–{high:.1f}%"
        rows.append([percent(one["confidence"]), percent(one["accuracy"]), shown, f"{one['n']:,}"])
    names = ("#promised", "#right", "#95% interval", "#images")
    description = "Accuracy against the probability of the predicted class; the table below has the numbers."
    chart = Chart("calibration", charts.reliability(bins), "Calibration curve", description)
    return Section("calibration", "Calibration", [text], [chart, table("Calibration", names, rows)])
