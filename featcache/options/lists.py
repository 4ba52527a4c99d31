"""The one list of options: name, type, default and help of each.

`featcache.extract`, `fit_head`, `compare` and `fine_tune` take them as keywords, the commands of the same names as
options of the command line, and `featcache.options.command_line` writes them as a command again. A new option is added
here, where it is used, and in a test.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from featcache.options.forms import (
    CACHE,
    CACHES,
    NAMES,
    NEGATIVE,
    PATH,
    REPEATED,
    SHARE,
    SPLITS,
    TEXT,
    WEIGHTS,
)
from featcache.options.signatures import OptionList, option, required

if TYPE_CHECKING:
    from featcache.cache import FeatureCache
    from featcache.heads import Head
    from featcache.images.augmentation import Augmentation
    from featcache.sources import Source

Pooling = Literal["avg", "max", "flatten", "none"]
Resize = Literal["stretch", "pad", "crop"]
Interpolation = Literal["bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5"]
Preprocess = Literal["auto", "none", "caffe", "torch", "tf", "rescale"]
Dtype = Literal["float32", "float16"]
Precision = Literal["float32", "bfloat16", "float16"]
Runtime = Literal["tensorflow", "openvino"]
Fill = Literal["nearest", "reflect", "constant"]
Compression = Literal["none", "zstd", "lz4"]
Engine = Literal["local", "processes", "dask"]
OnError = Literal["skip", "fail"]
Optimizer = Literal["adam", "sgd", "rmsprop"]
Schedule = Literal["constant", "cosine", "exponential"]
ClassWeight = Literal["balanced"]
Teacher = Literal["ridge", "dense"]

MAX_PIXELS = 250_000_000
"""How many pixels an image may have by default: more are a decompression bomb, mostly."""

SHARD_ROWS = 4096
"""Rows of a shard at most: what a kill can cost."""

BATCH_SIZE = 32
"""Images per forward pass, where nothing else is known."""

PathLike = str | os.PathLike[str]
Progress = Callable[[int, int], None]

BASE, IMAGES, SOURCE, SPLITTING, VIEWS = "Base", "Images and features", "Source", "Splits", "Augmented views"
RUN, OUTPUT, TRAINING, SCORING = "Running", "Output", "Training", "Scoring"

NEWEST = "the newest under cache/"
HEADS = "logreg, linear-svm, svm, ridge, knn, centroid or dense"


class DecodingOptions(OptionList):
    """Which images are decoded."""

    max_pixels: int = option(
        MAX_PIXELS,
        "Skip images with more pixels. An image takes 6 to 9 bytes per pixel while it is decoded, a TIFF 17: 2 GB "
        "for 250 million. Several are decoded at once.",
        IMAGES,
        minimum=1,
    )


class NetworkOptions(DecodingOptions):
    """A frozen network, and how images reach it."""

    base: Any = required(
        "A Keras application, or a .keras / .h5 model file.",
        form=TEXT,
        otherwise="mobilenetv2, or vgg19 where `layer` is one of its layers",
    )
    base_params: Mapping[str, Any] | None = option(
        None, "Arguments of the application, such as alpha=0.35.", BASE, flag="base-set", metavar="KEY=VALUE"
    )
    weights: str | Path | None = option(
        "imagenet",
        "imagenet (default), none (random, drawn by `seed`), or a file whose weights are loaded by layer name. A model "
        "file has its own by default.",
        form=WEIGHTS,
    )
    pooling: Pooling = option("avg", "How feature maps become vectors.", IMAGES)
    image_size: int | tuple[int, int] | None = option(
        None, "Height and width in pixels. Default: the base's own.", metavar="N|HxW"
    )
    resize: Resize | None = option(
        None, "How images of another shape are fitted. Default: stretch, or crop if `crop` is given.", IMAGES
    )
    crop: float | None = option(
        None,
        "Resize the shorter side to size / FRACTION, and take the centre; 1 takes the largest centre of the base's "
        "shape. Implies `resize` crop.",
        IMAGES,
        metavar="FRACTION",
    )
    interpolation: Interpolation = option("bilinear", "How pixels are interpolated.", IMAGES)
    preprocess: Preprocess = option(
        "auto", "How pixel values are scaled for the base. auto: as the application expects.", IMAGES
    )
    dtype: Dtype = option("float32", "How features are stored.", IMAGES)
    precision: Precision = option("float32", "Numeric precision of the forward pass.", RUN)
    runtime: Runtime = option(
        "tensorflow", "What executes the base. openvino: faster on most CPUs, needs featcache[openvino].", RUN
    )
    fast_decode: bool = option(
        False,
        "Decode a JPEG at an eighth, a quarter or half of its size, if that is not smaller than `image_size`.",
        IMAGES,
    )


class BaseOptions(NetworkOptions):
    """A frozen network, where it is cut, and how images reach it."""

    layers: Sequence[str] = option(
        (),
        "Where to cut the base; outer/inner inside a nested model. Repeat it for several layers. Default: the "
        "base's output.",
        flag="layer",
    )


class LayersOptions(OptionList, kw_only=False):
    """What the command ``layers`` takes."""

    base: Any = required("A Keras application, or a .keras / .h5 model file.", form=TEXT, argument=True)
    _: KW_ONLY
    base_params: Mapping[str, Any] | None = option(
        None, "Arguments of the application, such as alpha=0.35.", flag="base-set", metavar="KEY=VALUE"
    )
    image_size: int | tuple[int, int] | None = option(
        None, "Height and width in pixels. Default: the base's own.", metavar="N|HxW"
    )


class TransformerOptions(NetworkOptions, kw_only=False):
    """A frozen network as a scikit-learn transformer."""

    base: Any = required("A Keras application, a model file, or a model.")
    _: KW_ONLY
    layer: str | None = option(None, "Where to cut the base. Default: its output.")
    batch_size: int = option(BATCH_SIZE, "Images per forward pass.")


class TableOptions(OptionList):
    """Which files are images, and which columns of a table say what of them."""

    exclude: Sequence[str] = option(
        (),
        "Leave out files and folders of this name, at any depth, or at this path. Repeat it for several.",
        SOURCE,
        metavar="GLOB",
    )
    images: PathLike | None = option(None, "Where the images of a table are.", SOURCE, form=TEXT, metavar="DIR")
    image_column: str | None = option(None, "The column of a table that names the image.", SOURCE)
    label_column: str | None = option(None, "The column of a table that names the class.", SOURCE)


class ReadingOptions(TableOptions):
    """How a source is read."""

    splits: Mapping[str, str | Sequence[str]] | None = option(
        None,
        "What the source calls train, validation or test, such as train=fold1. Repeat it for each.",
        SOURCE,
        form=SPLITS,
        flag="split",
        metavar="SPLIT=NAME",
    )
    split_column: str | None = option(None, "The column of a table that names the split.", SOURCE)
    group_column: str | None = option(
        None, "The column of a table whose equal values stay in one split, such as patient.", SOURCE
    )


class ListingOptions(ReadingOptions):
    """Which images of a source are taken, and in which splits."""

    classes: Sequence[str] | None = option(
        None, "Keep these classes only. A name with a comma stands in double quotes.", SOURCE, form=NAMES, metavar="A,B"
    )
    validation_split: float | None = option(
        None,
        "The part of the training images that becomes validation, where the source has no such split. Default: 0.2.",
        SPLITTING,
        metavar="PART",
    )
    test_split: float | None = option(
        None,
        "The part of the training images that becomes test, where the source has no such split.",
        SPLITTING,
        metavar="PART",
    )
    test_from: tuple[str, float] | None = option(
        None,
        "Make a part of a split the test set, such as validation=0.2.",
        SPLITTING,
        form=SHARE,
        metavar="SPLIT=PART",
    )
    seed: int = option(0, "Draws the splits, the augmented views, and random weights.", SPLITTING)


class ExtractOptions(ListingOptions, BaseOptions, kw_only=False):
    """What `featcache.extract` takes."""

    source: PathLike | Source | Iterable[tuple[Any, Any]] = required(
        "A folder of class folders, or of train/, validation/ and test/ folders of those; a table (.csv, .tsv, "
        ".txt, .jsonl); arrays (.npz, or a folder of .npy); a .tar file or a folder of them; digits (embedded), "
        "cifar10, cifar100, mnist or fashion_mnist (downloaded).",
        form=TEXT,
        argument=True,
        otherwise="digits",
    )
    _: KW_ONLY
    views: int = option(0, "Augmented views of each training image.", VIEWS, minimum=0, maximum=65_535)
    augment: str | Augmentation | None = option(
        None,
        "How views are made: flip,rotation=0.2,zoom=0.3,shift=0.3,brightness=0.1,contrast=0.1,crop=0.2.",
        VIEWS,
        metavar="SPEC",
    )
    fill: Fill = option("nearest", "What appears beyond the edges of an augmented image.", VIEWS)
    batch_size: int | None = option(
        None,
        "Images per forward pass. Default: 32, or for thousands of images the fastest in a short trial.",
        RUN,
        minimum=1,
    )
    shard_rows: int = option(
        SHARD_ROWS,
        "Maximum number of rows per file, which is what a killed run may have to compute again.",
        OUTPUT,
        minimum=1,
    )
    compression: Compression = option(
        "none", "How new shards are compressed, without loss. Needs featcache[compression].", OUTPUT
    )
    engine: Engine = option(
        "local",
        "Where shards are computed: in this process, in several processes of this machine, or on a dask cluster "
        "(featcache[dask]).",
        RUN,
    )
    workers: int | None = option(
        None, "Number of processes. Default: one per GPU, else one per CPU, at most 8.", RUN, minimum=1
    )
    scheduler: str | None = option(
        None,
        "Address of a running dask cluster, such as tcp://host:8786. Default: one is started for this run.",
        RUN,
        metavar="ADDRESS",
    )
    on_error: OnError = option(
        "skip", "Whether an image that cannot be read is recorded with its reason, or ends the run.", RUN
    )
    retry_failed: bool = option(False, "Try images again that were skipped before.", RUN)
    rehash: bool = option(
        False, "Read every image, weights and model file again, even if nothing shows that it changed.", RUN
    )
    replace_source: bool = option(False, "Let the cache take over a source that shares no image with it.", OUTPUT)
    cache: PathLike | None = option(None, "The cache's own folder. Default: cache/<source>-<base>-<fingerprint>.")
    cache_root: PathLike = option("cache", "The folder in which default caches lie.", python=True)
    profile: bool = option(False, "Say where the time went.", RUN)
    progress: bool | Progress = option(
        True,
        "Show a bar in terminals and notebooks; or a function that is called with (rows done, rows to do).",
        python=True,
    )


class HeadOptions(OptionList):
    """What all commands that train heads have in common."""

    calibrate: str = option(
        "temperature", "How scores become probabilities: temperature, sigmoid, isotonic or none.", TRAINING
    )
    tune: bool = option(False, "Search each head's parameters on folds of the training images.", TRAINING)
    seed: int = option(0, "For everything random.", TRAINING)


class FitHeadOptions(HeadOptions, kw_only=False):
    """What `featcache.fit_head` takes."""

    cache: FeatureCache | PathLike = required("A cache.", form=CACHE, argument=True, otherwise=NEWEST)
    clf: Any = option("logreg", f"The head: {HEADS}.", form=TEXT)
    _: KW_ONLY
    layer: str | None = option(None, "The layer whose features are used. Default: the deepest one.")
    params: Mapping[str, Any] | None = option(
        None, "A parameter of the head, such as C=0.1 or hidden=1024,1024.", flag="set", metavar="KEY=VALUE"
    )
    cv: int | None = option(
        None,
        "Also score the head on K folds of the training images, stratified and by group. Default: none, or 5 if no "
        "validation image counts in scores.",
        SCORING,
        metavar="K",
    )
    fewshot: Sequence[int] = option(
        (), "Also score heads trained on N images of each class, such as 1,5,10.", SCORING, metavar="N,N..."
    )
    tries: int = option(5, "Number of random draws for each few-shot size.", SCORING, minimum=1)
    jobs: int = option(1, "Processes for `tune`, `cv` and `fewshot`.", TRAINING, minimum=1)
    out: PathLike | None = option(
        None,
        "The head's folder. Default: <cache>/heads/<clf>-<layer>. A head that is there is replaced; other files "
        "are kept.",
    )
    bundle: bool = option(
        True,
        "Leave the base out of the folder of `out`, which then works only while the base is found elsewhere.",
        OUTPUT,
        form=NEGATIVE,
        flag="no-bundle",
    )
    assert_accuracy: float | None = option(
        None,
        "Exit with code 4, and write no head, below this accuracy on validation (test, if there is no validation).",
        SCORING,
        minimum=0,
        maximum=1,
    )
    progress: bool | Progress = option(
        True,
        "Show a bar in terminals and notebooks while several fits are made; or a function that is called with (fits "
        "done, fits to do).",
        python=True,
    )


class CompareOptions(HeadOptions, kw_only=False):
    """What `featcache.compare` takes."""

    caches: FeatureCache | PathLike | Sequence[FeatureCache | PathLike] = required(
        "Caches.", form=CACHES, metavar="CACHE", argument=True, otherwise=NEWEST
    )
    clf: Any = option(
        None,
        f"{HEADS}. Repeat it for several. Default: all; with more than 20,000 training rows neither svm nor knn.",
        form=REPEATED,
    )
    _: KW_ONLY
    layers: Sequence[str] | None = option(
        None, "The layer whose features are used. Repeat it for several. Default: all.", flag="layer"
    )
    cv: int | None = option(
        None, "Rank by K folds of the training images instead of by validation.", SCORING, metavar="K"
    )
    jobs: int | None = option(
        None, "Number of processes. Default: one per CPU, as far as memory allows.", TRAINING, minimum=1
    )
    fresh: bool = option(False, "Train everything again, even if its result is known.", TRAINING)
    progress: bool | Progress = option(
        True,
        "Show a bar in terminals and notebooks; or a function that is called with (heads done, heads to do).",
        python=True,
    )


class FineTuneOptions(OptionList, kw_only=False):
    """What `featcache.fine_tune` takes."""

    head: Head | PathLike = required("The folder of a head.", form=PATH, argument=True)
    _: KW_ONLY
    from_layer: str | None = option(None, "Train the base from this layer on.")
    from_index: int | None = option(
        None,
        "Train the base from this index into its layers on, which begin with the input layer, as Keras counts them.",
        minimum=0,
    )
    last: int | None = option(None, "Train the last N layers of the base (instead of `from_layer`).", minimum=1)
    all_layers: bool = option(False, "Train all layers of the base.", flag="all")
    reinitialise: bool = option(False, "Train the whole base and the head from random weights: training from scratch.")
    epochs: int = option(10, "Maximum number of epochs, not counting those of the head.", TRAINING, minimum=1)
    initial_epoch: int | None = option(
        None,
        "How many epochs were trained before; their count goes on. Default: those of a dense head, else 0.",
        TRAINING,
        minimum=0,
    )
    optimizer: Optimizer = option("adam", "The optimizer.", TRAINING)
    learning_rate: float | None = option(
        None, "Default: a tenth of a dense head's, 1e-5 for other heads, 0.001 from random weights.", TRAINING
    )
    momentum: float = option(0.9, "Momentum of sgd.", TRAINING)
    schedule: Schedule = option(
        "constant",
        "How the learning rate falls in epoch e of E: not at all; cosine: to 0, as (1 + cos(pi e / E)) / 2; "
        "exponential: to 1 %, as 0.01 ** (e / E).",
        TRAINING,
    )
    weight_decay: float = option(0.0, "Decoupled weight decay of kernels (Loshchilov & Hutter 2019).", TRAINING)
    batch_size: int = option(32, "Images per step.", TRAINING, minimum=1)
    mixed_precision: bool = option(
        False,
        "Train the base in bfloat16, with weights in float32. What is scored and saved computes in float32.",
        TRAINING,
    )
    train_batch_norm: bool = option(
        False,
        "Let batch normalisation use and learn the statistics of the batches. By default it keeps its own; its "
        "gamma and beta train with their layer either way.",
        TRAINING,
    )
    augment: str | Augmentation | None = option(
        None, "Other views of the training images in each epoch, such as flip,rotation=0.1.", TRAINING, metavar="SPEC"
    )
    fill: Fill = option("nearest", "What appears beyond the edges of an augmented image.", TRAINING)
    class_weight: ClassWeight | None = option(
        None, "balanced: rare classes count as much as others, n / (k * images of the class).", TRAINING
    )
    patience: int = option(
        5,
        "Epochs without a lower validation loss before training stops. The weights of the lowest one are kept.",
        TRAINING,
        minimum=1,
    )
    seed: int = option(0, "For everything random.", TRAINING)
    tensorboard: PathLike | None = option(None, "A folder for TensorBoard's logs.", OUTPUT, metavar="DIR")
    out: PathLike | None = option(None, "The model's folder. Default: the head's folder with -finetuned.", OUTPUT)
    base: Any = option(None, "The base, if it has moved.", BASE, form=TEXT)
    weights: str | Path | None = option(None, "The base's weights, if they have moved.", BASE)
    distill: Teacher | None = option(
        None,
        "First train such a head to answer as this one, for heads that no network can express (svm, knn, isotonic).",
        TRAINING,
    )
    dry_run: bool = option(False, "Only show the layers, and which of them train.", OUTPUT)
    progress: bool | Progress = option(
        True,
        "Show a bar in terminals and notebooks; or a function that is called with (images done, images to do).",
        python=True,
    )
