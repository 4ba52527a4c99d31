import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import MIX, SHIFT, SIDE, random_image, slow, write_image

import featcache
from featcache import ImageClassifier, fine_tune, fit_head
from featcache.bases import load_base
from featcache.cache.lock import writer_lock
from featcache.errors import CacheBusyError, HeadError, OptionError
from featcache.models.composition import cut
from featcache.models.finetune import Unfreezing, tuning
from featcache.models.finetune.layers import counts, layer_table, unfreeze
from featcache.models.finetune.training import Checkpoint, Options, State
from featcache.models.folder import PixelModel
from featcache.recipe import Request

UNTRAINED = {"epochs": 1, "learning_rate": 1e-9}  # a head that says one class of everything: nothing is worse


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model file of two convolutions, each with batch normalisation, that takes pixels of 0 to 255."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3), name="image"),
            layers.Rescaling(1 / 127.5, -1, name="scale"),
            layers.Conv2D(4, 3, name="first"),
            layers.BatchNormalization(name="first_bn"),
            layers.ReLU(name="first_relu"),
            layers.Conv2D(6, 3, name="second"),
            layers.BatchNormalization(name="second_bn"),
            layers.ReLU(name="last"),
        ],
        name="small",
    )
    path = tmp_path_factory.mktemp("network") / "small.keras"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return images of two classes: 40 of each to train on, 20 for validation, 10 for test."""
    root = tmp_path_factory.mktemp("shades")
    for split, count in (("train", 40), ("validation", 20), ("test", 10)):
        for i in range(count):
            for label, shift in (("dark", 0), ("light", 41)):
                pixels = random_image(2000 * len(split) + 10 * i + shift) // 2 + shift
                write_image(root / split / label / f"{i}.png", pixels.astype(np.uint8))
    return root


@pytest.fixture(scope="module")
def trained(extracting, network: Path, shades: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a function that trains each head once, on a cache of its own."""

    @functools.cache
    def train(clf: str, params: str, source: Path | None, calibrate: str, options: str) -> Path:
        root = tmp_path_factory.mktemp("trained")
        wanted = {"base": network, "layers": ["last"], "preprocess": "auto", "batch_size": 32, **json.loads(options)}
        cache = extracting(source or shades, root / "cache", **wanted)
        return fit_head(cache, clf, params=json.loads(params), out=root / "head", calibrate=calibrate).path

    return train


@pytest.fixture
def made_head(trained, tmp_path: Path):
    """Return a maker of saved heads on the small network: copies of those that were trained before."""

    def make(clf: str = "dense", params: dict[str, object] | None = None, **options: object) -> Path:
        source, calibrate = options.pop("source", None), options.pop("calibrate", "temperature")
        quick = {"epochs": 3} if clf == "dense" else {}
        head = trained(clf, json.dumps(quick | (params or {})), source, calibrate, json.dumps(options))
        return Path(shutil.copytree(head, tmp_path / "head"))

    return make


def base_weights(path: Path) -> dict[str, np.ndarray]:
    """Return the weights of the base in a model's folder, by name."""
    model = PixelModel.load(path).model
    return {
        f"{layer.name}/{weight.name}": weight.numpy()
        for layer in model.get_layer("small").layers
        for weight in layer.weights
    }


@pytest.mark.slow
def test_counts_of_mobilenet_from_index_100() -> None:
    """With one output, 1,862,721 parameters of MobileNetV2 train from index 100 on, and 396,544 do not."""
    import keras

    network = cut(load_base(Request(base="mobilenetv2", weights=None, image_size=96)), 0)
    unfreeze(network, Unfreezing(from_index=100), numbered_anew=True)
    pixels = keras.Input((96, 96, 3))
    pooled = keras.ops.mean(network(pixels, training=False), axis=(1, 2))
    model = keras.Model(pixels, keras.layers.Dense(1)(pooled))
    assert counts(model) == (1_862_721, 396_544, 2_259_265)
    reference = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(96, 96, 3))
    assert [layer.name for layer in network.layers[1:]] == [layer.name for layer in reference.layers[1:]]
    table = layer_table(network, numbered_anew=True)
    assert [row["trainable"] for row in table if row["parameters"]].index(True) == sum(
        1 for row in table[:100] if row["parameters"]
    )


def nested() -> object:
    """Return a network of automatic names whose second layer is a network."""
    import keras

    dense = keras.layers.Dense
    inner = keras.Sequential([keras.Input((4,)), dense(4, name="a"), dense(4, name="b")], name="in")
    x = keras.Input((4,))
    y = dense(4)(x)
    y = dense(4)(y)
    return keras.Model(x, keras.layers.Dense(2, name="end")(inner(y)))


@pytest.mark.parametrize(("name", "training"), [("dense_1", 2 + 4 + 2), ("in/b", 2 + 2), ("in", 4 + 2), ("out/end", 2)])
def test_names_are_those_a_fresh_process_shows(name: str, training: int) -> None:
    """Automatic numbers count from the network's own start; a name may lead into a nested model."""
    for _ in range(2):
        network = nested()
        unfreeze(network, Unfreezing(from_layer=name), numbered_anew=True)
        assert len(network.trainable_weights) == training
        assert [row["name"] for row in layer_table(network, numbered_anew=True)][1:] == [
            "dense",
            "dense_1",
            "in",
            "end",
        ]


@pytest.mark.parametrize("name", ["in/c", "end/a", "dense_7"])
def test_names_that_lead_nowhere(name: str) -> None:
    """A layer that is not there is refused."""
    with pytest.raises(OptionError, match="The base has no layer"):
        unfreeze(nested(), Unfreezing(from_layer=name), numbered_anew=True)


@pytest.mark.parametrize(
    ("which", "training"),
    [
        ({"from_layer": "second"}, {"second", "second_bn"}),
        slow({"last": 3}, {"second", "second_bn"}),
        slow({"all_layers": True}, {"first", "first_bn", "second", "second_bn"}),
    ],
)
@pytest.mark.slow
def test_what_is_frozen_does_not_change(made_head, network: Path, which, training: set[str]) -> None:
    """What is unfrozen trains, all else keeps its values, and so do the statistics of batch normalisation."""
    import keras

    result = fine_tune(made_head(params=UNTRAINED, calibrate="none"), **which, epochs=1, learning_rate=1e-3).fine_tuning
    assert {row["name"] for row in result.layers if row["trainable"]} == training
    assert result.kept == "tuned"
    before = keras.models.load_model(network)
    for name, value in base_weights(result.model.path).items():
        layer, _, weight = name.partition("/")
        old = next(one.numpy() for one in before.get_layer(layer).weights if one.name == weight)
        moved = layer in training and not weight.startswith("moving")
        assert np.array_equal(old, value) != moved, name


@pytest.mark.slow
def test_batch_norm_trains_when_asked(made_head, network: Path) -> None:
    """With train_batch_norm the statistics are learned, too; of frozen layers they are not."""
    import keras

    path = made_head(params=UNTRAINED, calibrate="none")
    result = fine_tune(path, from_layer="second", epochs=1, train_batch_norm=True, learning_rate=1e-3).fine_tuning
    assert result.kept == "tuned"
    tuned, before = base_weights(result.model.path), keras.models.load_model(network)
    for layer, moved in (("first_bn", False), ("second_bn", True)):
        assert np.array_equal(tuned[f"{layer}/moving_mean"], before.get_layer(layer).moving_mean.numpy()) != moved


@pytest.mark.parametrize(
    ("clf", "calibrate", "options"),
    [
        ("ridge", "sigmoid", {"dtype": "float16"}),
        ("dense", "temperature", {"layers": ["first_relu", "last"], "pooling": "max"}),
        slow("logreg", "temperature", {}),
        slow("linear-svm", "none", {"layers": ["first_relu"], "pooling": "flatten"}),
        slow("dense", "sigmoid", {"views": 2, "augment": "flip"}),
    ],
)
@pytest.mark.by_default("ridge-sigmoid-options0")
def test_one_model_says_what_the_head_says(made_head, clf: str, calibrate: str, options: dict[str, object]) -> None:
    """Before training the composed model has the head's accuracy, whatever the cache is; the result evaluates."""
    path = made_head(clf, calibrate=calibrate, **options)
    result = fine_tune(
        path, all_layers=True, epochs=1, augment="flip,brightness=0.05", class_weight="balanced"
    ).fine_tuning
    assert result.composed_accuracy == pytest.approx(result.before["validation"]["accuracy"], abs=0.026)
    assert result.difference <= (5e-3 if options.get("dtype") == "float16" else 1e-4)
    shown = ImageClassifier.load(result.model.path).evaluate()["metrics"]
    for split in ("validation", "test"):
        assert shown[split]["accuracy"] == pytest.approx(result.model.metrics[split]["accuracy"])
    assert result.model.class_names == ["dark", "light"]


@pytest.mark.parametrize(("clf", "calibrate"), [("ridge", "sigmoid"), slow("dense", "temperature")])
@pytest.mark.slow
def test_several_classes(extracting, network: Path, tmp_path: Path, clf: str, calibrate: str) -> None:
    """With three classes the loss is that of the model's probabilities, and each name keeps its column."""
    for i in range(90):
        shade = (random_image(i) // 4 + 60 * (i % 3)).astype(np.uint8)
        write_image(tmp_path / "p" / ("train" if i < 66 else "validation") / "cab"[i % 3] / f"{i}.png", shade)
    cache = extracting(tmp_path / "p", tmp_path / "c", base=network, layers=["last"], preprocess="auto")
    head = fit_head(cache, clf, params={"epochs": 30} if clf == "dense" else {}, calibrate=calibrate)
    result = fine_tune(head, last=3, epochs=1, learning_rate=1e-3).fine_tuning
    assert result.history["val_loss"][0] == pytest.approx(result.after["validation"]["log_loss"], abs=1e-4)
    assert result.history["val_accuracy"][0] == pytest.approx(result.after["validation"]["accuracy"])
    assert result.model.class_names == ["a", "b", "c"]
    bright = tmp_path / "p" / "validation" / "b"
    found = [one.label for one in ImageClassifier.load(result.model.path).predict_records(bright)]
    assert found.count("b") > len(found) / 2


@pytest.mark.slow
def test_history_goes_on_from_the_heads(made_head) -> None:
    """Epochs are counted on from those of a dense head, at a tenth of its rate, and both phases are drawn."""
    result = fine_tune(made_head(), last=3, epochs=2, schedule="cosine", tensorboard=None).fine_tuning
    assert result.history["epoch"] == [4, 5]
    assert result.history["learning_rate"] == pytest.approx([1e-4, 0.5e-4])
    card = PixelModel.load(result.model.path).card
    assert (len(card["history"]["head"]["loss"]), card["history"]["fine_tune"]) == (3, result.history)
    chart = json.loads((result.model.path / "curves.json").read_text())
    assert chart["hconcat"][0]["layer"][1]["data"]["values"] == [{"epoch": 3.5, "phase": "fine-tune"}]
    assert (result.model.path / "curves.png").stat().st_size > 1000


def test_seeds_reproduce(made_head, tmp_path: Path) -> None:
    """The same seed gives the same history and weights, with dropout, views and fresh weights; another does not."""
    path = made_head(params={"hidden": (8,), "dropout": 0.3, "batch_norm": True})

    def run(seed: int, name: str):
        return fine_tune(
            path, reinitialise=True, epochs=2, seed=seed, augment="flip,zoom=0.1", out=tmp_path / name
        ).fine_tuning

    one, two, other = run(1, "one"), run(1, "two"), run(2, "three")
    assert one.history["loss"] == pytest.approx(two.history["loss"], rel=1e-5)
    assert one.history["loss"] != pytest.approx(other.history["loss"], rel=1e-5)
    assert one.kept == "tuned"


@pytest.mark.slow
def test_not_a_number_ends_with_the_last_good_weights(made_head) -> None:
    """Where the loss explodes, the run says so and the model is sound."""
    result = fine_tune(
        made_head(), all_layers=True, epochs=4, learning_rate=1e30, optimizer="sgd", momentum=0.0
    ).fine_tuning
    assert result.stopped is not None
    assert "loss" in result.stopped["reason"]
    assert result.kept == "head"
    assert result.model.metrics["validation"]["accuracy"] == result.before["validation"]["accuracy"]
    shown = ImageClassifier.load(result.model.path).evaluate()["metrics"]["validation"]
    assert shown["accuracy"] == pytest.approx(result.composed_accuracy)


def test_the_better_one_is_kept(extracting, split_photos: Path, tmp_path: Path) -> None:
    """A fine-tune that makes validation worse, here on wrong labels, says so, and the model is the head's."""
    cache = extracting(split_photos, tmp_path / "c")
    head = fit_head(cache, "logreg", params={"C": 1e-6}, calibrate="none", out=tmp_path / "head")
    dark, light = (split_photos / "train" / name for name in ("dark", "light"))
    for old, new in ((dark, tmp_path / "aside"), (light, dark), (tmp_path / "aside", light)):
        old.rename(new)
    result = fine_tune(head, all_layers=True, epochs=1, learning_rate=0.01).fine_tuning
    assert result.after["validation"]["accuracy"] < result.before["validation"]["accuracy"] == 1.0
    assert (result.kept, result.model.card["kept"]) == ("head", "head")
    assert result.model.metrics == result.before
    layer = PixelModel.load(tmp_path / "head-finetuned").model.get_layer("oracle").get_layer("mix")
    assert np.array_equal(layer.get_weights()[0][0, 0], MIX)
    assert np.array_equal(layer.get_weights()[1], SHIFT)


@pytest.mark.parametrize("student", ["ridge", "dense"])
@pytest.mark.by_default("ridge")
def test_distilling_a_head_that_no_network_expresses(made_head, student: str) -> None:
    """A knn head cannot be composed; distilled, it can, and how far both agree is told."""
    path = made_head("knn", layers=["first_relu"])
    with pytest.raises(HeadError, match="`distill`"):
        fine_tune(path, last=3)
    result = fine_tune(path, last=3, epochs=1, distill=student).fine_tuning
    assert result.distilled["agreement"]["validation"]["n"] == 40
    assert 0.8 < result.distilled["agreement"]["validation"]["part"] <= 1
    assert result.model.card["head"]["clf"] == "knn"


@pytest.mark.slow
def test_unreadable_images_are_named(made_head, extracting, network: Path, shades: Path, tmp_path: Path) -> None:
    """An image that became unreadable since is skipped with its reason, and training goes on."""
    import shutil

    shutil.copytree(shades, tmp_path / "own")
    cache = extracting(tmp_path / "own", tmp_path / "cache", base=network, layers=["last"], preprocess="auto")
    head = fit_head(cache, out=tmp_path / "head")
    (tmp_path / "own" / "train" / "dark" / "0.png").write_text("hello")
    result = fine_tune(head, last=3, epochs=2).fine_tuning
    assert result.skipped == [{"path": "train/dark/0.png", "reason": "not an image: its content is text"}]
    assert len(result.history["epoch"]) == 2


def test_dry_run_only_tells(made_head) -> None:
    """A dry run gives the table and the counts, and writes nothing."""
    path = made_head("logreg")
    result = fine_tune(path, from_layer="second_bn", dry_run=True).fine_tuning
    assert [(row["index"], row["name"]) for row in result.layers][:2] == [(0, "pixels"), (1, "scale")]
    assert (result.trainable, result.total) == (12 + 7, 112 + 16 + 222 + 24 + 7)
    assert result.model is None
    assert not path.with_name("head-finetuned").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Received: none of them"),
        ({"last": 2, "all_layers": True}, "`last` and `all_layers`"),
        ({"from_layer": "secnd"}, "nearest: second"),
        ({"from_index": 9}, "below 8"),
        ({"last": 1}, "None of these layers has weights"),
        ({"last": 3, "optimizer": "lion"}, "optimizer"),
        ({"last": 3, "augment": "spin"}, "augment"),
        ({"last": 3, "learning_rate": 0.0}, "learning_rate"),
        ({"last": 3, "distill": "svm"}, "`distill` must be"),
    ],
)
def test_wrong_options(made_head, options: dict[str, object], message: str) -> None:
    """What cannot be done is said before anything is trained."""
    with pytest.raises(OptionError, match=message):
        fine_tune(made_head("logreg"), **options)


def test_schedules() -> None:
    """Constant stays, cosine falls to 0, exponential to 1 %, as for dense heads."""
    rates = {
        name: [Options(1.0, epochs=4, schedule=name).rate(e) for e in (0, 2, 4)]
        for name in ("constant", "cosine", "exponential")
    }
    assert rates["constant"] == [1, 1, 1]
    assert rates["cosine"] == pytest.approx([1, 0.5, 0])
    assert rates["exponential"] == pytest.approx([1, 0.1, 0.01])


KILLED = """
import sys
from featcache import fine_tune
fine_tune(sys.argv[1], last=3, epochs=15, patience=15, seed=3, optimizer="adam", augment="flip", out=sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_run_goes_on(made_head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After SIGKILL the same call goes on: every epoch is in the history once, with the values of a whole run."""
    from featcache.models.finetune import training

    path, out = made_head(), tmp_path / "killed"
    root = str(Path(__file__).parents[3])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen([sys.executable, "-c", KILLED, path, out], env=env)
    file = tmp_path / "killed.checkpoint" / "state.npz"
    until = time.monotonic() + 60
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with np.load(file) as stored:
        done = json.loads(stored["state"].tobytes())["epoch"]
    assert 1 <= done < 15
    assert not out.exists()
    trained: list[int] = []
    epoch = training.Trainer._epoch
    monkeypatch.setattr(
        training.Trainer,
        "_epoch",
        lambda self, step, number, shown: (trained.append(number), epoch(self, step, number, shown))[1],
    )
    options = {"last": 3, "epochs": 15, "patience": 15, "seed": 3, "augment": "flip"}
    resumed = fine_tune(path, **options, out=out).fine_tuning
    assert trained == list(range(done, 15))
    assert resumed.history["epoch"] == list(range(4, 19))
    assert not file.parent.exists()
    whole = fine_tune(path, **options, out=tmp_path / "whole").fine_tuning
    for name, values in whole.history.items():
        assert resumed.history[name] == pytest.approx(values, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("content", [b"PK damaged", slow(b"")])
def test_a_checkpoint_of_other_options_is_not_overwritten(made_head, tmp_path: Path, caplog, content: bytes) -> None:
    """What a run with other options left is kept and named; what is damaged is named and begun anew."""
    from featcache.models.finetune.training import Checkpoint

    path = made_head()
    removed = Checkpoint.remove
    Checkpoint.remove = lambda self: None  # as if the run had been killed just before its end
    try:
        fine_tune(path, last=3, epochs=1, out=tmp_path / "m")
    finally:
        Checkpoint.remove = removed
    file = tmp_path / "m.checkpoint" / "state.npz"
    left = file.read_bytes()
    with pytest.raises(OptionError, match=r"other options or images, which stopped after epoch 1\. Use"):
        fine_tune(path, last=3, epochs=1, seed=1, out=tmp_path / "m")
    assert file.read_bytes() == left
    file.write_bytes(content)
    assert fine_tune(path, last=3, epochs=1, out=tmp_path / "m").fine_tuning.history["epoch"] == [4]
    assert "cannot be read" in caplog.text


def test_other_folders_and_models_are_refused(made_head, tmp_path: Path) -> None:
    """A folder that holds other files stays as it is, and a model is no head."""
    path = made_head("logreg")
    with pytest.raises(HeadError, match="holds other files"):
        fine_tune(path, last=3, out=tmp_path)
    result = fine_tune(path, last=3, epochs=1).fine_tuning
    with pytest.raises(HeadError, match="whole model"):
        fine_tune(result.model.path, last=3)


def test_mixed_precision_and_logs(made_head, tmp_path: Path) -> None:
    """Training in bfloat16 saves a float32 model; TensorBoard's file is written."""
    result = fine_tune(
        made_head(), all_layers=True, epochs=1, mixed_precision=True, tensorboard=tmp_path / "logs"
    ).fine_tuning
    layers = PixelModel.load(result.model.path).model.get_layer("small").layers
    assert {layer.compute_dtype for layer in layers} == {"float32"}
    assert list((tmp_path / "logs").glob("events*"))


def test_a_base_in_memory(extracting, network: Path, shades: Path, tmp_path: Path) -> None:
    """A head on features of a model object is fine-tuned with that model given again; the object stays as it is."""
    import keras

    model = keras.models.load_model(network)
    head = fit_head(extracting(shades, tmp_path / "c", base=model, layers=["last"], preprocess="auto"))
    before = model.get_weights()
    result = fine_tune(
        head, from_layer="second", epochs=1, learning_rate=1e-4, base=keras.models.load_model(network)
    ).fine_tuning
    assert ImageClassifier.load(result.model.path).predict(shades / "test" / "dark")[0] in ("dark", "light")
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))


def test_one_run_at_a_time(made_head, tmp_path: Path) -> None:
    """A second run with the same place for its model is refused while the first one trains, and nothing is lost."""
    path, said = made_head(), []

    def second(done: int, total: int) -> None:
        if not said:
            with pytest.raises(CacheBusyError, match=r"Another process is writing .*m\.checkpoint.*process"):
                fine_tune(path, last=3, epochs=1, out=tmp_path / "m")
            said.append(done)

    assert fine_tune(path, last=3, epochs=1, out=tmp_path / "m", progress=second).fine_tuning.history["epoch"] == [4]
    assert said
    assert {one.name for one in tmp_path.iterdir()} == {"head", "m"}


def test_a_place_that_cannot_be_written_is_named_before_training(made_head, tmp_path: Path) -> None:
    """Neither a model's place nor TensorBoard's logs are found impossible after hours of training."""
    path = made_head()
    (tmp_path / "file").write_text("")
    for options in ({"out": tmp_path / "file" / "m"}, {"out": tmp_path / "m", "tensorboard": tmp_path / "file"}):
        with pytest.raises(OptionError, match="file'"):
            fine_tune(path, last=3, epochs=1, **options, progress=lambda done, total: pytest.fail("it trained"))


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.by_default("validation")
def test_images_that_can_no_longer_be_read(made_head, tmp_path: Path, shades: Path, split: str) -> None:
    """Without one readable image of a split there is an error, not an epoch over nothing."""
    copied = shutil.copytree(shades, tmp_path / "copied")
    path = made_head(source=copied)
    for image in (copied / split).rglob("*.png"):
        image.write_bytes(image.read_bytes()[:30])
    with pytest.raises(OptionError, match="read"):
        fine_tune(path, last=3, epochs=1, out=tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_changed_training_images_are_counted(made_head, tmp_path: Path, shades: Path, caplog) -> None:
    """Images that are not those the head was trained on are said to be others."""
    copied = shutil.copytree(shades, tmp_path / "copied")
    path = made_head(source=copied)
    for i, image in enumerate(sorted((copied / "train" / "dark").iterdir())[:3]):
        write_image(image, random_image(9000 + i))
    fine_tune(path, last=3, out=tmp_path / "m", **UNTRAINED)
    assert "3 of 80 training images are not those that the head was trained on" in caplog.text


def test_no_good_epoch(made_head, tmp_path: Path) -> None:
    """Where the first epoch explodes, the head is kept and nothing is claimed of an epoch after it."""
    found = fine_tune(
        made_head(), all_layers=True, epochs=3, optimizer="sgd", learning_rate=1e6, out=tmp_path / "m"
    ).fine_tuning
    assert (found.kept, found.after, found.history) == ("head", {}, {})
    assert found.stopped["epoch"] == 4
    assert PixelModel.load(tmp_path / "m").metrics["validation"] == found.before["validation"]


def test_mixed_precision_goes_into_nested_models(network: Path) -> None:
    """Layers inside a model inside the base compute in bfloat16, all but the last; afterwards in float32 again."""
    import keras

    from featcache.models.finetune.training import _mixed

    small = keras.models.load_model(network)
    pixels = keras.Input((SIDE, SIDE, 3))
    outer = keras.Model(pixels, keras.layers.Activation("relu")(small(pixels)))
    for base in (outer, keras.Model(pixels, small(pixels))):
        with _mixed(base):
            inside = {layer.name: layer.compute_dtype for layer in small.layers}
            traced = np.asarray(base(np.ones((2, SIDE, SIDE, 3), np.float32)))
        assert inside["first"] == inside["second"] == "bfloat16"
        assert traced.dtype == np.float32
        assert {layer.compute_dtype for layer in small.layers} == {"float32"}


@pytest.mark.slow
def test_a_student_below_its_teacher_is_said(made_head, tmp_path: Path, caplog, monkeypatch) -> None:
    """A model distilled from a better head is kept with a warning that names both accuracies."""
    path = made_head("knn")
    card = featcache.Head.load(path)
    card.card["metrics"]["validation"]["accuracy"] = 2.0
    found = fine_tune(card, last=3, distill="ridge", out=tmp_path / "m", **UNTRAINED).fine_tuning
    assert "worse than the knn head it was distilled from" in caplog.text
    assert found.distilled["metrics"]["validation"]["accuracy"] == 2.0


def test_a_head_of_a_reduced_precision_cache(made_head, caplog, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts as the float32 model that it is, whose score is what counts, and not where that is clearly lower."""
    path = made_head("logreg", {"C": 1e6}, calibrate="none", precision="bfloat16")
    result = fine_tune(path, last=3, epochs=1, learning_rate=1e-9).fine_tuning
    assert result.difference > 5e-3  # by which it was refused before
    assert result.before["validation"]["accuracy"] == result.composed_accuracy
    assert "cache was computed in bfloat16, fine-tuning computes in float32" in caplog.text
    assert "on n=40 validation images" in caplog.text
    scored = ImageClassifier.load(result.model.path).evaluate()["metrics"]["validation"]["accuracy"]
    assert scored == pytest.approx(result.model.metrics["validation"]["accuracy"])
    by_model = tuning._Run._by_model
    monkeypatch.setattr(tuning._Run, "_by_model", lambda self, pixels: by_model(self, pixels)[:, ::-1])
    with pytest.raises(HeadError, match=r"lower by more than one standard error.*--precision float32"):
        fine_tune(path, last=3, epochs=1)


def test_a_training_that_lost_its_lock_writes_no_checkpoint(tmp_path: Path) -> None:
    """Two trainings never write one checkpoint: whoever lost the lock stops with one line."""
    with writer_lock(tmp_path) as lock:
        (tmp_path / "lock").unlink()
        with writer_lock(tmp_path), pytest.raises(CacheBusyError, match="has taken over"):
            Checkpoint(tmp_path / "state.npz", "key", lock.check).save(State(), [], SimpleNamespace(variables=[]))
    assert list(tmp_path.iterdir()) == []
