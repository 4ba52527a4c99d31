import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

from featcache.errors import HeadError, OptionError
from featcache.training import Comparison, compare, comparison, fit_head
from featcache.training.significance import holm, mcnemar

FAST = ["logreg", "ridge", "centroid"]


def run(caches: object, clf: object = FAST, **options: object) -> Comparison:
    return compare(caches, clf, jobs=1, **options)


def test_the_table_has_what_fit_head_scores(made) -> None:
    """Each row has the accuracy that `fit_head` finds on validation, the best first, marked as selected on it."""
    cache = made(apart=0.6)
    found = run(cache)
    assert {row["clf"] for row in found.leaderboard} == set(FAST)
    for row in found.leaderboard:
        head = fit_head(cache, row["clf"])
        for key in ("accuracy", "accuracy_ci95", "n", "macro_f1", "log_loss", "ece"):
            assert row[key] == pytest.approx(head.metrics["validation"][key])
        assert row["selected_on"] == "validation"
    accuracies = [row["accuracy"] for row in found.leaderboard]
    assert accuracies == sorted(accuracies, reverse=True)


def test_test_images_are_scored_for_the_best_alone(made) -> None:
    """The best head's metrics on test are there, and nobody else's."""
    cache = made(apart=0.6)
    found = run(cache)
    head = fit_head(cache, found.best["clf"])
    assert found.best["test"]["accuracy"] == head.metrics["test"]["accuracy"]
    kept = [json.loads(file.read_text())["result"] for file in (cache.path / "results").iterdir()]
    assert sum("test" in result for result in kept) == 1
    assert all("test" not in row for row in found.leaderboard)
    assert run(cache).best["test"] == found.best["test"]


def test_copies_only_in_test_are_no_failure(made, caplog: pytest.LogCaptureFixture) -> None:
    """Where every test image was trained on, test is not scored, and that is said."""
    cache = made()
    train = [e for e in cache.entries if e.split == "train"]
    copies = [e._replace(split="test", path=f"copy {e.path}") for e in train[:5]]
    found = run(cache.with_listing([*(e for e in cache.entries if e.split != "test"), *copies]), ["centroid"])
    assert "test" not in found.best
    assert "5 of 5 test images do not count in scores: 5 copies of training images" in caplog.text


def test_paired_tests_say_what_can_be_told_apart(made) -> None:
    """The p-values are McNemar's on the same validation images, adjusted by Holm's method."""
    cache = made(apart=0.6, layers=("noise", "signal"), each=(60, 100, 2))
    weak = made("weak", apart=0.05, each=(60, 100, 2), seed=7)
    found = run([cache, weak], ["centroid", "ridge"], layers=["signal", "features"])
    right = {}
    for row in found.leaderboard:
        opened = cache if row["layer"] == "signal" else weak
        head = fit_head(opened, row["clf"], layer=row["layer"])
        X, y = opened.load("validation", row["layer"])
        right[row["cache"], row["clf"]] = head.predict(X) == y
    best, *others = right.values()
    expected = holm([mcnemar(best, other) for other in others])
    assert [row["p_value"] for row in found.leaderboard[1:]] == pytest.approx(expected)
    assert found.best["p_value"] is None
    assert [row["distinguishable"] for row in found.leaderboard] == [False, *(p < 0.05 for p in expected)]
    assert any(row["distinguishable"] for row in found.leaderboard)
    for row in found.leaderboard:
        d = right[row["cache"], row["clf"]].astype(float) - best
        error = d.std(ddof=1) / np.sqrt(len(d))
        assert row["difference"] == pytest.approx(d.mean())
        assert row["difference_ci95"] == pytest.approx([d.mean() - 1.96 * error, d.mean() + 1.96 * error])
        assert row["as_good"] == (d.mean() >= -error - 1e-9)


def test_the_simplest_of_those_that_are_as_good(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head far behind is never as good, however few images there are; of the others the simplest is named."""
    rng = np.random.default_rng(0)
    best = rng.random(60) < 0.97
    near, far = best.copy(), best & (rng.random(60) < 0.85)
    near[:1] = ~near[:1]
    plain = comparison._result
    bits = {"svm": best, "logreg": near, "centroid": far}

    def result(work: object) -> dict[str, object]:
        own = bits[work.plan.clf]
        found = plain(work)
        return {**found, "metrics": {**found["metrics"], "accuracy": own.mean()}, "right": comparison._packed_bits(own)}

    monkeypatch.setattr(comparison, "_result", result)
    found = run(made(each=(30, 20, 0)), list(bits))
    assert [row["clf"] for row in found.as_good] == ["logreg"]
    assert found.simplest["clf"] == "logreg"
    assert "the simplest is logreg: " in str(found)
    assert found.leaderboard[-1]["clf"] == "centroid"
    assert not found.leaderboard[-1]["as_good"]


def test_layers_are_ranked_by_accuracy(made) -> None:
    """Deeper layers that tell classes better apart come first."""
    found = run(made(apart=2, layers=("shallow", "middle", "deep")), ["ridge"])
    assert [row["layer"] for row in found.leaderboard] == ["deep", "middle", "shallow"]


def test_caches_are_joined_on_the_images_they_share(made, caplog: pytest.LogCaptureFixture) -> None:
    """What only one cache has is left out, and the labels of the first count."""
    caplog.set_level("INFO")
    first, second = made(), made("other", ids=90, seed=5, width=5)
    found = run([first, second], ["ridge"])
    assert found.images == 360 - 90
    assert len({row["cache"] for row in found.leaderboard}) == 2
    assert all(row["n"] == found.leaderboard[0]["n"] for row in found.leaderboard)
    assert "270 images are in all of" in caplog.text
    assert "have another label in" not in caplog.text
    with pytest.raises(HeadError, match="share no image"):
        run([first, made("far", ids=5000)])


def test_other_labels_are_said(made, caplog: pytest.LogCaptureFixture) -> None:
    """Images that another cache labels otherwise are counted."""
    run([made(), made("other", ids=1)], ["centroid"])
    assert "images have another label in" in caplog.text


def test_other_splits_and_groups_are_said(made, caplog: pytest.LogCaptureFixture) -> None:
    """Images that another cache has in another split or group are counted: the first cache's count."""
    first, second = made(), made("other", seed=5)
    listed = list(second.entries)
    moved = [entry._replace(split="validation") if i < 7 else entry for i, entry in enumerate(listed)]
    run([first, second.with_listing(moved)], ["centroid"])
    assert "7 images have another split in" in caplog.text
    assert "another group" not in caplog.text
    grouped = [entry._replace(group="patient 1") if i % 40 == 0 else entry for i, entry in enumerate(listed)]
    run([first, second.with_listing(grouped)], ["centroid"])
    assert "9 images have another group in" in caplog.text


def test_one_failing_head_does_not_lose_the_others(made) -> None:
    """Its reason stands in `failed`; if all fail that is an error."""
    found = run(made(each=(2, 5, 1)), ["knn", "ridge"])
    assert [one["clf"] for one in found.failed] == ["knn"]
    assert "neighbors" in found.failed[0]["error"]
    assert [row["clf"] for row in found.leaderboard] == ["ridge"]
    with pytest.raises(HeadError, match="No head could be trained"):
        run(made("two", each=(2, 5, 1)), ["knn"])


def test_results_are_kept_until_something_changes(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same comparison trains nothing; other parameters, other labels or `fresh` do."""
    trained = []
    plain = comparison._result
    monkeypatch.setattr(comparison, "_result", lambda work: (trained.append(work.plan.clf), plain(work))[1])
    cache = made()
    first = run(cache)
    assert len(trained) == 3
    again = run(cache)
    assert len(trained) == 3
    assert json.dumps(again.to_dict()) == json.dumps(first.to_dict())
    run(cache, seed=1)
    assert len(trained) == 6
    entries = [e._replace(label="c0") if i == 1 else e for i, e in enumerate(cache.entries)]
    run(cache.with_listing(entries))
    assert len(trained) == 9
    run(cache, fresh=True)
    assert len(trained) == 12


def test_folds_rank_where_there_is_no_validation(made) -> None:
    """With `cv` the held-out folds of the training images decide; without both it is an error."""
    cache = made(each=(40, 0, 0))
    with pytest.raises(OptionError, match="rank by folds with `cv`"):
        run(cache)
    found = run(cache, cv=3)
    assert found.best["selected_on"] == "cross-validation"
    assert found.best["n"] == 120
    assert found.leaderboard[1]["p_value"] is not None


def test_tuning_reports_its_sweep(made) -> None:
    """With `tune` each head has its best parameters and all that was tried."""
    found = run(made(apart=0.5), ["logreg", "ridge"], tune=True)
    by_head = {row["clf"]: row for row in found.leaderboard}
    assert by_head["logreg"]["params"]["C"] in [row["params"]["C"] for row in by_head["logreg"]["sweep"]]
    assert len(by_head["ridge"]["sweep"]) > 5


def test_csv_and_dict_hold_the_table(made) -> None:
    """Both have a row for each head, and JSON can hold the dict."""
    found = run(made())
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [row["clf"] for row in rows] == [row["clf"] for row in found.leaderboard]
    assert json.loads(rows[0]["accuracy_ci95"]) == found.best["accuracy_ci95"]
    assert json.loads(json.dumps(found.to_dict()))["images"] == found.images


@pytest.mark.slow
def test_processes_find_the_same(made) -> None:
    """Two processes rank as one does, and say how much memory each head took."""
    one = run(made())
    two = compare(made("again"), FAST, jobs=2, fresh=True)
    assert [row["accuracy"] for row in two.leaderboard] == [row["accuracy"] for row in one.leaderboard]


@pytest.mark.slow
def test_planted_leaks_score_chance(made, tmp_path) -> None:
    """Random labels with every image twice: a naive split of the rows scores high, every protocol here chance."""
    from sklearn.neighbors import KNeighborsClassifier

    from featcache.cache import FeatureCache

    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(200, 6)).astype(np.float32), 3, axis=0)
    y = np.repeat(rng.integers(0, 2, 200), 3)
    digests = [(i // 3).to_bytes(32, "big") if i % 3 < 2 else (1000 + i // 3).to_bytes(32, "big") for i in range(600)]
    groups = [f"g{i // 3}" for i in range(600)]
    order = rng.permutation(600)
    naive = KNeighborsClassifier(1).fit(X[order[:400]], y[order[:400]]).score(X[order[400:]], y[order[400:]])
    assert naive > 0.9
    cache = FeatureCache.from_arrays(
        X, y, None, {"made": "leak"}, path=tmp_path / "leak", digests=digests, groups=groups, class_names=["a", "b"]
    )
    found = run(cache, ["knn", "ridge", "logreg"], tune=True)
    folds = run(cache, ["knn", "ridge", "logreg"], cv=4)
    for row in [*found.leaderboard, *folds.leaderboard]:
        assert 0.3 < row["accuracy"] < 0.65, row


def test_what_is_done_when_it_is_stopped_is_kept(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle, the same comparison goes on with the heads that are left."""

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    cache = made()
    with pytest.raises(KeyboardInterrupt):
        run(cache, progress=stop)
    assert len(list((cache.path / "results").iterdir())) == 2
    trained = []
    plain = comparison._result
    monkeypatch.setattr(comparison, "_result", lambda work: (trained.append(1), plain(work))[1])
    run(cache)
    assert len(trained) == 1


def test_a_damaged_layer_does_not_lose_the_others(made) -> None:
    """A layer that cannot be read fails with its heads, and the others are ranked."""
    cache = made(layers=("shallow", "deep"))
    (shard,) = (cache.path / "shards").glob("*.h5")
    info = next(iter(cache.shards.values()))
    content = bytearray(shard.read_bytes())
    content[info.offsets["deep"] + 100] ^= 1
    shard.write_bytes(content)
    found = run(cache.path, ["ridge", "centroid"])
    assert [row["layer"] for row in found.leaderboard] == ["shallow", "shallow"]
    assert {one["layer"] for one in found.failed} == {"deep"}
    assert "checksum" in found.failed[0]["error"]


def test_caches_with_other_orders_and_groups_of_two_classes_have_the_same_folds(made) -> None:
    """Joined caches are divided alike, so that McNemar's test compares the same images."""
    first = made(each=(40, 0, 0), apart=1.0)
    second = made("other", each=(40, 0, 0), apart=0.2, seed=3)
    entries = [e._replace(group="both" if i < 7 else None) for i, e in enumerate(first.entries)]
    found = run([first.with_listing(entries), second], ["centroid", "ridge"], cv=3)
    assert len({row["n"] for row in found.leaderboard}) == 1
    assert not found.failed


def test_a_cache_counts_once(made) -> None:
    """The same folder under two names is one cache."""
    cache = made()
    twice = run([cache.path, cache.path / ".." / cache.path.name], ["ridge"])
    assert len(twice.leaderboard) == 1


def test_a_copy_of_a_cache_counts_once(extracting, split_photos: Path, tmp_path: Path, caplog) -> None:
    """Equal features from two folders make one row, and that is said."""
    caplog.set_level("INFO")
    cache = extracting(split_photos, tmp_path / "first")
    shutil.copytree(cache.path, tmp_path / "copy")
    found = run([cache.path, tmp_path / "copy"], ["ridge", "centroid"])
    assert [row["cache"] for row in found.leaderboard] == [str(cache.path)] * 2
    assert "is compared once" in caplog.text


def test_the_table_fits_the_terminal(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names are cut, names that are alike in all rows are left out, and Python is told of no command."""
    monkeypatch.setenv("COLUMNS", "80")
    layers = [f"a_layer_with_a_very_long_name_{i}" for i in range(6)]
    found = run([made("a cache with a very long name", layers=layers), made("another")], FAST)
    text = str(found).splitlines()
    assert len(text[0]) <= 80
    assert all(len(line) == len(text[0]) for line in text[1:11])
    assert "leaderboard" in text[11]
    assert "--" not in str(found)
    single = str(run(made("one"), FAST))
    assert "cache" not in single.splitlines()[0]
    assert "layer features, ranked by validation" in single


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clf": {"mine": GaussianNB()}, "tune": True}, "GridSearchCV"),
        ({"clf": []}, "Name at least one"),
        ({"layers": []}, "Name at least one"),
        ({"seed": -1}, "`seed` must be 0 or more"),
        ({"cv": 1}, "at least 2 folds"),
        ({"calibrate": "platt"}, "`calibrate` must be"),
        ({"jobs": 0}, "1 or more"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_done(made, options: dict[str, object], message: str) -> None:
    """Nothing is laid out or trained with options that cannot be."""
    with pytest.raises(OptionError, match=message):
        compare(made().path, **{"jobs": 1, **options})


def test_slow_heads_take_part_in_large_comparisons_only_if_named(made, monkeypatch, caplog) -> None:
    """Beyond a number of rows the heads that take minutes are left out, which is said."""
    caplog.set_level("INFO")
    monkeypatch.setattr(comparison, "SLOW_ROWS", 50)
    monkeypatch.setattr(comparison, "_run", lambda tasks, **_: pytest.fail(str([t.plan and t.plan.clf for t in tasks])))
    with pytest.raises(pytest.fail.Exception, match=r"^\['logreg', 'linear-svm', 'ridge', 'centroid', 'dense'\]"):
        compare(made(), jobs=1)
    assert "svm and knn only if named" in caplog.text
    with pytest.raises(pytest.fail.Exception, match=r"^\['svm'\]"):
        compare(made("two"), "svm", jobs=1)
