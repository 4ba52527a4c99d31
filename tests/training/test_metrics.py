import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.metrics import log_loss as plain_log_loss

from featcache.errors import OptionError
from featcache.training.metrics import (
    calibration_error,
    classification_metrics,
    coverage_table,
    log_loss,
    wilson_interval,
)

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 3, 200)
PREDICTED = np.where(RNG.random(200) < 0.7, TRUTH, RNG.integers(0, 3, 200))
NAMES = ["a", "b", "c"]


def sure(predicted: np.ndarray) -> np.ndarray:
    """Return probabilities of 1 for the predicted class."""
    return np.eye(3)[predicted]


def test_wilson_interval_of_a_known_case() -> None:
    """81 of 263 is Newcombe's (1998) example: 0.2553 to 0.3662."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_scores_are_scikit_learns() -> None:
    """Accuracy, precision, recall, F1 and the confusion matrix equal scikit-learn's."""
    ours = classification_metrics(TRUTH, sure(PREDICTED), NAMES)
    precision, recall, f1, n = precision_recall_fscore_support(TRUTH, PREDICTED, labels=[0, 1, 2])
    for i, name in enumerate(NAMES):
        assert list(ours["per_class"][name].values()) == pytest.approx([precision[i], recall[i], f1[i], n[i]])
    assert ours["confusion"] == confusion_matrix(TRUTH, PREDICTED).tolist()
    assert ours["macro_f1"] == pytest.approx(f1.mean())
    assert ours["accuracy"] == (TRUTH == PREDICTED).mean()
    assert ours["n"] == 200


def test_absent_classes_do_not_count() -> None:
    """Macro F1 is over the classes that occur, as in scikit-learn."""
    ours = classification_metrics(np.array([0, 0, 1]), sure(np.array([0, 1, 1])), NAMES)
    assert ours["macro_f1"] == pytest.approx(2 / 3)
    assert ours["per_class"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "n": 0}


def test_interval_holds_the_score() -> None:
    """The bootstrap interval surrounds the score and is the same each time."""
    first = classification_metrics(TRUTH, sure(PREDICTED), NAMES)
    low, high = first["macro_f1_ci95"]
    assert low < first["macro_f1"] < high
    assert classification_metrics(TRUTH, sure(PREDICTED), NAMES)["macro_f1_ci95"] == [low, high]


def test_copies_widen_the_interval() -> None:
    """Ten copies of each image are no more evidence than one."""
    once = classification_metrics(TRUTH, sure(PREDICTED), NAMES)["macro_f1_ci95"]
    groups = np.tile(np.arange(200), 10)
    grouped = classification_metrics(np.tile(TRUTH, 10), sure(np.tile(PREDICTED, 10)), NAMES, groups)["macro_f1_ci95"]
    naive = classification_metrics(np.tile(TRUTH, 10), sure(np.tile(PREDICTED, 10)), NAMES)["macro_f1_ci95"]
    assert grouped == pytest.approx(once, abs=0.01)
    assert naive[1] - naive[0] < 0.5 * (grouped[1] - grouped[0])


def test_nothing_to_score() -> None:
    """No image is no accuracy."""
    with pytest.raises(OptionError):
        classification_metrics(np.array([], int), np.zeros((0, 3)), NAMES)


def test_log_loss_is_scikit_learns() -> None:
    """The mean logarithm of the true class's probability, finite where that is 0."""
    shares = np.random.default_rng(1).dirichlet(np.ones(3), 200)
    assert log_loss(TRUTH, shares) == pytest.approx(plain_log_loss(TRUTH, shares, labels=[0, 1, 2]))
    assert log_loss(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(-np.log(1e-15))


def test_calibration_error_of_known_cases() -> None:
    """Confidence that equals accuracy has none; 90 % sure and half right has 0.4."""
    shares = np.tile([0.8, 0.2], (10, 1))
    assert calibration_error(np.array([0] * 8 + [1] * 2), shares) == pytest.approx(0)
    shares = np.concatenate([np.tile([0.9, 0.1], (10, 1)), np.tile([0.3, 0.7], (10, 1))])
    truth = np.array([0, 1] * 5 + [1] * 7 + [0] * 3)
    assert calibration_error(truth, shares) == pytest.approx(0.2)
    assert calibration_error(np.array([0]), np.array([[1.0, 0.0]])) == 0


@pytest.mark.slow
def test_intervals_without_copies_are_the_bootstraps() -> None:
    """Drawing the cells of the confusion matrix gives the interval that drawing images gives."""
    drawn = classification_metrics(TRUTH, sure(PREDICTED), NAMES)["macro_f1_ci95"]
    rng = np.random.default_rng(0)
    plain = []
    for _ in range(1000):
        chosen = rng.integers(0, 200, 200)
        _, _, f1, _ = precision_recall_fscore_support(
            TRUTH[chosen], PREDICTED[chosen], labels=[0, 1, 2], zero_division=0
        )
        plain.append(f1.mean())
    assert drawn == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=0.01)


def test_many_classes_need_little_memory() -> None:
    """The interval of 2,000 classes is found from the cells that occur."""
    truth = np.arange(4000) % 2000
    import tracemalloc

    shares = np.zeros((4000, 2000), np.float32)
    shares[np.arange(4000), truth] = 1
    tracemalloc.start()
    metrics = classification_metrics(truth, shares, [str(i) for i in range(2000)], np.arange(4000) // 2)
    assert tracemalloc.get_traced_memory()[1] < 400e6
    tracemalloc.stop()
    assert metrics["macro_f1"] == 1
    assert metrics["macro_f1_ci95"] == [1, 1]


def test_coverage_is_what_a_loop_counts() -> None:
    """Each row says how many images reach its threshold and how many of these are right."""
    shares = np.random.default_rng(2).dirichlet(np.ones(3), 200)
    table = coverage_table(TRUTH, shares)
    assert len(table) == 8
    for row, least in zip(table, (100, 99, 95, 90, 80, 70, 60, 50), strict=True):
        answered = right = 0
        for truth, one in zip(TRUTH, shares, strict=True):
            if max(one) >= row["threshold"]:
                answered += 1
                right += int(list(one).index(max(one)) == truth)
        assert (row["n"], row["coverage"], row["accuracy"]) == (answered, answered / 200, right / answered)
        assert row["accuracy_ci95"] == list(wilson_interval(right, answered))
        assert answered == 2 * least  # no two images are so close
        assert row["threshold"] == float(f"{row['threshold']:.6f}")
        assert (shares.max(axis=1) >= row["threshold"] + 1e-6).sum() < 2 * least or row["threshold"] == 0


def test_coverage_of_equals_has_one_row() -> None:
    """Where a threshold answers all or none there is nothing between, and all are always answered by 0."""
    table = coverage_table(TRUTH, sure(PREDICTED))
    assert [(row["threshold"], row["coverage"]) for row in table] == [(0.0, 1.0), (1.0, 1.0)]
    assert [row["n"] for row in coverage_table(np.array([0]), np.array([[0.3, 0.7]]))] == [1, 1]
    with pytest.raises(OptionError):
        coverage_table(np.array([], int), np.zeros((0, 3)))
