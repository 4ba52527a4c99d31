import numpy as np
import pytest

from featcache.errors import HeadError, OptionError
from featcache.heads import kind_of
from featcache.training import search
from featcache.training.examples import evaluation_examples, packed, probabilities, training_examples
from featcache.training.single import Plan, train

NAMES = ["c0", "c1", "c2"]


def plan(clf: str = "logreg", **params: object) -> Plan:
    return Plan(clf, "features", NAMES, params)


def test_cross_validation_is_the_plain_loop(made) -> None:
    """The score is that of heads trained without each fold, on the rows of that fold."""
    examples = training_examples(made(), "features")
    metrics, right = search.cross_validate(plan(), examples, 4)
    fold = search._folds(examples, 4, 0)
    expected = np.zeros(len(examples), bool)
    for number in range(4):
        head = train(plan(), examples.take(fold != number))
        shares = probabilities(head, examples.rows.take(fold == number))
        expected[fold == number] = shares.argmax(axis=1) == examples.labels[fold == number]
    assert metrics["accuracy"] == expected.mean()
    assert np.array_equal(right, expected[np.argsort(examples.images)])
    assert metrics["accuracy_folds"] == [expected[fold == number].mean() for number in range(4)]
    assert (metrics["folds"], metrics["n"]) == (4, 180)


def test_processes_change_nothing(made) -> None:
    """Two processes find what one does."""
    cache = made()
    with packed(training_examples(cache, "features"), cache.path) as examples:
        one, two = (search.cross_validate(plan("ridge"), examples, 3, jobs=jobs)[0] for jobs in (1, 2))
    assert one == two


def test_dense_heads_really_train_in_every_fold(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross-validation of a dense head runs as many epochs as were asked for."""
    lengths = []
    plain = search.train

    def spying(one: Plan, examples: object) -> object:
        head = plain(one, examples)
        lengths.append(len(head.estimator.estimator_.history_["loss"]))
        return head

    monkeypatch.setattr(search, "train", spying)
    search.cross_validate(plan("dense", epochs=3, validation_fraction=0.0), training_examples(made(), "features"), 3)
    assert lengths == [3, 3, 3]


def test_tuning_takes_the_best_of_the_folds_and_fits_it_on_all(made) -> None:
    """Every value of the grid is tried, then finer around the best, and the most accurate is trained."""
    examples = training_examples(made(apart=0.5), "features")
    tuned = search.tune(plan("svm"), examples)
    tried = [row["params"]["C"] for row in tuned.sweep]
    grid = kind_of("svm").grid["C"]
    assert tried[: len(grid)] == list(grid)
    best = max(tuned.sweep[: len(grid)], key=lambda row: row["accuracy"])["params"]["C"]
    assert tried[len(grid) :] == pytest.approx([best * 10**-0.5, best * 10**0.5])
    assert tuned.plan.params["C"] == max(tuned.sweep, key=lambda row: row["accuracy"])["params"]["C"]
    again = train(tuned.plan, examples)
    X = np.asarray(examples.rows)
    assert np.array_equal(tuned.head.predict_proba(X), again.predict_proba(X))


@pytest.mark.parametrize("clf", ["logreg", "linear-svm"])
def test_linear_heads_choose_their_penalty_by_themselves(made, clf: str) -> None:
    """Tuned or not they are the same head, and the sweep is what they tried."""
    examples = training_examples(made(apart=0.5), "features")
    tuned, plain = search.tune(plan(clf), examples), train(plan(clf), examples)
    X = np.asarray(examples.rows)
    assert np.array_equal(tuned.head.predict_proba(X), plain.predict_proba(X))
    losses = {row["params"]["C"]: row["log_loss"] for row in tuned.sweep}
    assert tuned.plan.params["C"] == min(losses, key=losses.__getitem__)
    assert np.allclose(train(tuned.plan, examples).predict_proba(X), plain.predict_proba(X), atol=2e-3)


def test_parameters_that_are_set_are_not_searched(made) -> None:
    """What the user sets stays as it is."""
    tuned = search.tune(plan(C=0.5), training_examples(made(), "features"))
    assert tuned.plan.params == {"C": 0.5}
    assert tuned.sweep == []


def test_ridge_chooses_among_its_own_penalties(made) -> None:
    """Its sweep has the held-out errors of a coarse grid, then of a fine one around the best."""
    tuned = search.tune(plan("ridge"), training_examples(made(apart=0.3), "features"))
    errors = [row["squared_error"] for row in tuned.sweep]
    assert len(errors) == len(kind_of("ridge").grid["alphas"]) + 5
    alpha = tuned.head.estimator.estimator_.alpha_
    assert alpha == pytest.approx(tuned.sweep[int(np.argmin(errors))]["params"]["alpha"])


@pytest.mark.parametrize("clf", ["svm", "knn", "centroid"])
def test_every_grid_can_be_tuned(made, clf: str) -> None:
    """Each grid has parameters that the head takes, and none of them fails."""
    tuned = search.tune(plan(clf), training_examples(made(each=(30, 5, 5)), "features"))
    assert all(row["error"] is None for row in tuned.sweep if clf != "knn")
    assert set(tuned.plan.params) == set(kind_of(clf).grid)


def test_values_that_fail_are_passed_over(made) -> None:
    """More neighbours than images is a value that fails, said in the sweep, and another is taken."""
    tuned = search.tune(plan("knn"), training_examples(made(each=(10, 5, 5)), "features"))
    failed = [row for row in tuned.sweep if row["error"]]
    assert [row["params"]["n_neighbors"] for row in failed] == [50]
    assert tuned.plan.params["n_neighbors"] != 50


def test_few_shot_draws_distinct_training_images(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draw has as many images of each class as asked for, never one of validation, each of its own group."""
    cache = made()
    examples = training_examples(cache, "features")
    validation = evaluation_examples(cache, "validation", "features")
    drawn = []
    plain = search.train
    monkeypatch.setattr(search, "train", lambda one, part: (drawn.append(part), plain(one, part))[1])
    found = search.few_shot(plan(), examples, validation, [1, 5], 3)
    assert [(row["shots"], len(row["accuracies"])) for row in found] == [(1, 3), (5, 3)]
    for part, count in zip(drawn, [1, 1, 1, 5, 5, 5], strict=True):
        assert np.bincount(part.labels).tolist() == [count] * 3
        assert len(set(part.groups.tolist())) == 3 * count
        assert set(part.images.tolist()) <= set(examples.images.tolist())
    assert len({tuple(sorted(part.images)) for part in drawn}) == 6
    assert found[1]["accuracy"] > found[0]["accuracy"] - 0.1


def test_few_shot_needs_enough_images(made) -> None:
    """More images than there are is refused."""
    cache = made(each=(3, 2, 2))
    parts = training_examples(cache, "features"), evaluation_examples(cache, "validation", "features")
    with pytest.raises(OptionError, match="asks for 4 images of each class"):
        search.few_shot(plan(), *parts, [4], 1)
    for shots, tries in (([0], 1), ([1], 0)):
        with pytest.raises(OptionError, match="must be 1 or more"):
            search.few_shot(plan(), *parts, shots, tries)


def test_too_few_folds_and_images(made) -> None:
    """One fold is none, and classes of one image cannot be divided."""
    examples = training_examples(made(each=(1, 1, 1)), "features")
    with pytest.raises(OptionError, match="at least 2 folds"):
        search.cross_validate(plan(), examples, 1)
    with pytest.raises(HeadError, match="Cross-validation needs"):
        search.cross_validate(plan(), examples, 2)
    with pytest.raises(HeadError, match="Tuning needs"):
        search.tune(plan(), examples)


@pytest.mark.parametrize("clf", ["dense"])
def test_few_shot_heads_train_on_all_that_was_drawn(made, monkeypatch: pytest.MonkeyPatch, clf: str) -> None:
    """A head that holds rows out of many holds none out of few."""
    from featcache.heads import rows as module

    cache = made()
    parts = training_examples(cache, "features"), evaluation_examples(cache, "validation", "features")
    seen = set()
    plain = module.Rows.shuffled

    def shuffled(self, rng, batch_size):
        seen.add(len(self))
        return plain(self, rng, batch_size)

    monkeypatch.setattr(module.Rows, "shuffled", shuffled)
    search.few_shot(plan(clf, epochs=2), *parts, [2], 1)
    assert seen == {6}


def test_few_shot_neighbours_are_as_many_as_there_are(made) -> None:
    """With fewer images than neighbours, all of them vote."""
    cache = made()
    parts = training_examples(cache, "features"), evaluation_examples(cache, "validation", "features")
    assert search.few_shot(plan("knn"), *parts, [1], 2)[0]["accuracy"] >= 0


def test_folds_are_the_same_whatever_the_order_and_the_views(made) -> None:
    """The images decide: another order of rows, or views of some, divides them alike."""
    examples = training_examples(made(), "features")
    examples.groups[:] = examples.images // 5  # of several classes each
    fold = search._folds(examples, 4, 0)
    other = np.random.default_rng(0).permutation(len(examples))
    assert np.array_equal(search._folds(examples.take(other), 4, 0), fold[other])
    twice = np.concatenate([other, other[:50]])
    views = examples.take(twice)
    views.scored[len(other) :] = False
    assert np.array_equal(search._folds(views, 4, 0), fold[twice])


def test_views_are_trained_on_and_never_scored_in_folds(extracting, photos, tmp_path) -> None:
    """Of each image the one as it is counts, and its views are on its side."""
    cache = extracting(photos, tmp_path / "c", views=2, augment="flip", validation_split=0.0)
    examples = training_examples(cache, "mix")
    metrics, right = search.cross_validate(Plan("centroid", "mix", ["dark", "light"]), examples, 3)
    assert (len(examples), metrics["n"], len(right)) == (36, 12, 12)


def test_the_best_is_the_most_accurate_and_of_equals_the_first() -> None:
    """What failed does not count."""
    sweep = [{"params": i, "accuracy": value, "error": "x"} for i, value in enumerate([None, 0.5, 0.9, 0.9, 0.7])]
    assert search._best(sweep)["params"] == 2
    with pytest.raises(HeadError, match="first error was: x"):
        search._best(sweep[:1])
