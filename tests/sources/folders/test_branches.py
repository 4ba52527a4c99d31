import io
import logging
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.errors import SourceError
from featcache.sources import Source, SourceOptions, class_names
from featcache.sources import names as layouts
from featcache.sources.opening import open_source

OFFICE = "--split train=amazon --split test=dslr"
BATCHES = "--split train=batches --split train=data_batch_1 --split train=data_batch_2"

CLASSES = {
    # a plain source
    "cats/1.jpg dogs/2.jpg": "cats,dogs",
    "cats/1.jpg": "cats",
    "1.jpg 2.jpg": "",
    "0/1.png 1/1.png 2/1.png": "0,1,2",
    "cats/2020/1.jpg cats/2.jpg dogs/3.jpg": "cats,dogs",
    "animals/cats/1.jpg vehicles/cars/2.jpg": "animals,vehicles",
    "n1/images/1.jpg n2/images/2.jpg": "n1,n2",
    "valid/1.jpg invalid/2.jpg": "invalid,valid",
    "bullet train/1.jpg crash test/2.jpg": "bullet train,crash test",
    "development site/1.jpg forest/2.jpg": "development site,forest",
    "part one/1.jpg part two/2.jpg": "part one,part two",
    "00001/1.jpg 00002/2.jpg": "00001,00002",
    "01440764/1.jpg 10020190/2.jpg": "01440764,10020190",
    "n01440764/1.jpg n01443537/2.jpg": "n01440764,n01443537",
    "class1/1.jpg class2/2.jpg": "class1,class2",
    "week_1/1.jpg week_2/2.jpg": "week_1,week_2",
    "with_mask/1.jpg without_mask/2.jpg": "with_mask,without_mask",
    "mask/1.jpg no mask/2.jpg": "mask,no mask",
    "labeled/1.jpg unlabeled/2.jpg": "labeled,unlabeled",
    "cats/1.jpg dogs/2.jpg __MACOSX/cats/1.jpg @eaDir/3.jpg $RECYCLE.BIN/x.jpg": "cats,dogs",
    # splits, as public sets name them
    "train/a/1.jpg train/b/2.jpg val/a/3.jpg test/b/4.jpg": "a,b train 2 validation 1 test 1",
    "Training/a/1.jpg Training/b/2.jpg Testing/a/3.jpg": "a,b train 2 test 1",
    "training/a/1.jpg validation/a/2.jpg evaluation/a/3.jpg": "a train 1 validation 1 test 1",
    "train/a/1.jpg train/b/2.jpg dev/a/3.jpg": "a,b train 2 validation 1",
    "train/a/1.jpg train/b/2.jpg eval/a/3.jpg": "a,b train 2 validation 1",
    "train/a/1.jpg eval/a/2.jpg test/a/3.jpg": "a train 1 validation 1 test 1",
    "TRAIN/a/1.jpg TEST/a/2.jpg": "a train 1 test 1",
    "seg_train/seg_train/a/1.jpg seg_train/seg_train/b/2.jpg seg_test/seg_test/a/3.jpg": "a,b train 2 test 1",
    "train_images/a/1.jpg test_images/a/2.jpg": "a train 1 test 1",
    "images-train/a/1.jpg images-val/a/2.jpg": "a train 1 validation 1",
    "train2017/a/1.jpg val2017/a/2.jpg": "a train 1 validation 1",
    "trainingSet/a/1.jpg testSet/a/2.jpg": "a train 1 test 1",
    "training_set/cats/1.jpg training_set/dogs/2.jpg test_set/cats/3.jpg": "cats,dogs train 2 test 1",
    "cifar train/a/1.jpg cifar test/a/2.jpg": "a train 1 test 1",
    "train/a/1.jpg": "a train 1",
    "train/a/1.jpg test/a/2.jpg __MACOSX/._x README.md labels.csv": "a train 1 test 1",
    # images without labels in a split
    "train/a/1.jpg train/b/2.jpg test/3.jpg": "a,b train 2 test 1",
    "train/a/1.jpg train/b/2.jpg test/all/3.jpg": "a,b train 2 test 1",
    "train/a/1.jpg train/b/2.jpg test/test/3.jpg": "a,b train 2 test 1",
    "train/a/1.jpg train/b/2.jpg test/whatever/3.jpg": "a,b train 2 test 1",
    "train/images/1.jpg valid/images/2.jpg": " train 1 validation 1",
    "train/a/1.jpg train/b/2.jpg test/original_images/3.jpg": "a,b train 2 test 1",
    "train/a/1.jpg train/unknown/2.jpg test/unknown/3.jpg": "a,unknown train 2 test 1",
    "train_part1/a/1.jpg test_part1/a/2.jpg": "a train 1 test 1",
    "train/1.jpg test1/2.jpg": " train 1 test 1",
}
"""Files of a source, and its classes and images of each split."""

REFUSED = {
    "A/cats/1.jpg A/dogs/2.jpg B/cats/3.jpg B/dogs/4.jpg": "--split train=A --split test=B",
    "A/cats/1.jpg A/dogs/2.jpg A/x/5.jpg B/cats/3.jpg B/dogs/4.jpg": "--split train=A --split test=B",
    "amazon/images/mug/1.jpg amazon/images/pen/2.jpg dslr/images/mug/3.jpg dslr/images/pen/4.jpg": OFFICE,
    "fold1/1.jpg fold2/2.jpg fold3/3.jpg": "--split train=fold1 --split test=fold2",
    "fold1/a/1.jpg fold1/b/2.jpg fold2/a/3.jpg fold2/b/4.jpg": "--split train=fold1",
    "train/a/1.jpg train/b/2.jpg predictions/3.jpg": "--exclude predictions",
    "train/1.jpg predictions/3.jpg": "--exclude predictions",
    "train/a/1.jpg test/a/2.jpg my results/3.jpg": "--exclude 'my results'",
    "seg_train/a/1.jpg seg_train/b/2.jpg seg_test/a/3.jpg seg_pred/4.jpg": "--exclude seg_pred",
    "val/a/1.jpg test/a/2.jpg": "no train folder",
    "val/a/1.jpg learn/a/2.jpg": "--split train=learn",
    "train/a/1.jpg holdout/a/2.jpg": "--split test=holdout",
    "test/a/1.jpg": "no train folder",
    "train/a/1.jpg val/a/2.jpg valid/a/3.jpg": "--split validation=val --split validation=valid",
    "dataset/cats/1.jpg dataset/dogs/2.jpg": "/dataset' as the source",
    "a/dataset/train/cats/1.jpg a/dataset/test/cats/2.jpg": "/a/dataset' as the source",
    "images/1.jpg": "/images' as the source",
    "cats/train/1.jpg cats/test/2.jpg dogs/train/3.jpg dogs/test/4.jpg": "train/cats",
    "images/train/1.jpg images/val/2.jpg labels/train/1.txt labels/val/2.txt": "/images`",
    "train/images/1.jpg train/labels/1.txt valid/images/2.jpg valid/labels/2.txt": "--exclude labels",
    "Annotations/1.xml JPEGImages/1.jpg": "--exclude Annotations",
    "images/1.png masks/1.png": "name 'images' in it as the source",
    "cats/1.jpg dogs/2.jpg notes.txt": "--exclude notes.txt",
    "cats/1.jpg dogs/2.jpg readme[1].txt": "--exclude 'readme[[]1].txt'",
    "cats/1.jpg dogs.zip": "Unpack 'dogs.zip'",
    "cats/1.jpg dogs/2.jpg test images/3.jpg": "If they are classes: --exclude 'test images'",
    "images/a/1.jpg images/b/2.jpg classes.txt": "/images`",
    "train/images/1.jpg train/labels/1_exp.npy test/images/2.jpg": "a table",
    "cats/1.jpg dogs/2.jpg 3.jpg": "--exclude '/*.jpg'",
    "1.jpg 2.jpg thumb/1.jpg thumb/2.jpg": "with --exclude thumb, or these images with --exclude '/*.jpg'",
    "train/thumb/1.jpg train/1.jpg": "--exclude 'train/*.jpg'",
    # a table beside folders
    "cats/1.jpg dogs/2.jpg a.csv b.tsv": "If one of them has the labels, name it: `featcache extract /",
    "part_1/1.jpg part_2/2.jpg a.csv": "/a.csv --images /",
    "Images/cat/1.jpg Images/dog/2.jpg Masks/1.png": "name it as the source: `featcache extract /",
    "train/n1/images/1.jpg val/images/2.jpg val/val_annotations.txt": "leaves validation without labels",
    "data_batch_1/1.png data_batch_2/2.png batches/3.png test/4.png": BATCHES,
    # parts of one set
    "images_001/images/1.png images_002/images/2.png images_003/images/3.png": "parts of one set",
    "HAM_images_part_1/1.jpg HAM_images_part_2/2.jpg": "parts of one set",
    "data_batch_1/1.png data_batch_2/2.png": "parts of one set",
    "data_batch_1/1.png data_batch_2/2.png test_batch/3.png": "--split train=data_batch_1",
    "set1/1.jpg set2/2.jpg": "--split train=set1 --split test=set2",
    "100CANON/1.JPG 101CANON/2.JPG": "parts of one set",
    "100ABCDE/1.JPG": "/100ABCDE' as the source",
    "Photos from 2019/1.jpg Photos from 2020/2.jpg": "parts of one set",
    "part1/1.jpg part2/2.jpg rest/3.jpg": "parts of one set",
    "train/part1/1.jpg train/part2/2.jpg": "make a table of them",
    # masks
    "photos/0.jpg masks/0.png": "--exclude masks",
    "original_images/0.jpg label_images_semantic/0.png": "--exclude label_images_semantic",
    "left/0.jpg right/0.jpg labels/0.png": "--exclude labels",
    "original/0.jpg mask/0_m.png": "--exclude mask",
    "input/0.jpg gt/0.png": "--exclude gt",
    "img/1.jpg Ground Truth/1.png": "name 'img' in it",
    "scans/1.jpg ground_truth/1.png": "--exclude ground_truth",
    "a/1.jpg a_mask/1.png b/1.jpg b_mask/1.png": "--exclude a_mask --exclude b_mask",
    "a/images/1.jpg a/masks/1.jpg b/images/2.jpg b/masks/2.jpg": "--exclude masks",
    # the same images, or classes, once more
    "color/a/1.jpg color/b/2.jpg gray/a/1.jpg gray/b/2.jpg": "name one of them as the source",
    "cats/1.jpg dogs/2.jpg new/cats/3.jpg": "--exclude new",
    "animal/cat/1.jpg animal/1.jpg cat/2.jpg": "--exclude animal/cat",
    "train/cats/1.jpg train/dogs/2.jpg test/cat/3.jpg": "none is the same",
    "train/A/x/1.jpg train/A/y/2.jpg train/B/x/3.jpg train/B/y/4.jpg": "--classes A,B",
    "train/cats/1.jpg train/dogs/2.jpg test/cat/3.jpg test/dog/4.jpg": "none is the same",
    "train/train/a/1.jpg train/test/a/2.jpg": "splits in it again",
    "train/test/1.jpg": "splits in it again",
    "yes/1.jpg no/2.jpg brain/yes/3.jpg brain/no/4.jpg": "--exclude brain",
    "train/a/1.jpg train/b/2.jpg train/train/a/3.jpg train/train/b/4.jpg": "--exclude train/train",
    "train_cats/1.jpg train_dogs/2.jpg test_cats/3.jpg test_dogs/4.jpg": "split and class",
    "session1/cats/1.jpg session1/dogs/2.jpg session2/cats/3.jpg": "--split train=session1 --split test=session2",
}
"""Files of a source, and what the refusal says."""


def build(root: Path, files: str) -> Path:
    """Make small files, given by their paths; one space in a name must not be followed by a letter and a slash."""
    for name in paths(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def paths(files: str) -> list[str]:
    """Return the paths: a word without a dot belongs to the next one."""
    found, begun = [], ""
    for word in files.split(" "):
        begun += (" " if begun else "") + word
        if "." in word:
            found.append(begun)
            begun = ""
    return found


def said(source: Source) -> str:
    """Return classes and counts of splits."""
    counts = Counter(item.split for item in source.items)
    splits = "".join(f" {name} {counts[name]}" for name in ("train", "validation", "test") if counts[name])
    return ",".join(class_names(source.items)) + splits


@pytest.mark.parametrize(("files", "expected"), CLASSES.items())
def test_layouts(tmp_path: Path, files: str, expected: str) -> None:
    """Layouts of public sets have their classes and splits, and no file but litter is lost."""
    source = open_source(build(tmp_path / "set", files))
    assert said(source) == expected
    beside = {"README.md", "labels.csv"}
    litter = ("__MACOSX", "@eaDir", "$RECYCLE")
    assert {item.path for item in source.items} == {
        path for path in paths(files) if not path.startswith(litter) and path not in beside
    }


@pytest.mark.parametrize(("files", "advice"), REFUSED.items())
def test_refused_layouts(tmp_path: Path, files: str, advice: str) -> None:
    """What could mean two things is one line that says what to do."""
    with pytest.raises(SourceError) as caught:
        open_source(build(tmp_path / "set", files))
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("files", [name for name in CLASSES if "__MACOSX" not in name and "all/" not in name])
def test_a_packed_layout_is_the_folder(tmp_path: Path, files: str) -> None:
    """A tar of a folder, with its name in front or without, has the folder's classes, splits and images."""
    root = build(tmp_path / "set", files)
    for name in ("", "set"):
        with tarfile.open(tmp_path / "set.tar", "w") as tar:
            for path in paths(files):
                tar.add(root / path, f"{name}/{path}".lstrip("/"))
        source = open_source(tmp_path / "set.tar")
        assert said(source) == said(open_source(root))
        assert sorted(source.read(item) for item in source.items) == sorted(path.encode() for path in paths(files))


@pytest.mark.parametrize(
    "files",
    [
        name
        for name, advice in REFUSED.items()
        if "--exclude" in advice and ".txt" not in advice and ".jpg" not in advice
    ],
)
def test_a_packed_layout_is_refused_like_the_folder(tmp_path: Path, files: str) -> None:
    """What could mean two things could do so in a tar, too; files beside folders are images without a label there."""
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for path in paths(files.replace(".txt", ".csv").replace(".xml", ".csv")):
            info = tarfile.TarInfo(path)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(SourceError, match="--exclude"):
        open_source(tmp_path / "set.tar")


@pytest.mark.parametrize(
    ("files", "options", "expected"),
    [
        ("A/a/1.jpg A/b/2.jpg B/a/3.jpg B/b/4.jpg", {"splits": {"train": "A", "test": "B"}}, "a,b train 2 test 2"),
        (
            "A/a/1.jpg A/b/2.jpg B/a/3.jpg B/b/4.jpg C/a/5.jpg C/b/6.jpg",
            {"splits": {"train": ["A", "C"], "val": "B/"}},
            "a,b train 4 validation 2",
        ),
        ("train/a/1.jpg final/a/2.jpg", {"splits": {"test": "final"}}, "a train 1 test 1"),
        ("train/a/1.jpg train_old/a/2.jpg", {"splits": {"train": "train"}, "exclude": ["train_old"]}, "a train 1"),
        ("train/a/1.jpg predictions/2.jpg", {"exclude": ["predictions/"]}, "a train 1"),
        ("a/1.jpg b/2.jpg notes.txt", {"exclude": ["*.txt"]}, "a,b"),
        ("a/1.jpg a/raw/2.jpg b/raw/3.jpg b/4.jpg", {"exclude": ["raw"]}, "a,b"),
        ("a/raw/1.jpg a/2.jpg b/raw/3.jpg b/4.jpg", {"exclude": ["a/raw"]}, "a,b"),
        ("raw/1.jpg a/raw/2.jpg a/x.jpg", {"exclude": ["/raw"]}, "a"),
        ("raw/1.jpg a/b/c/d.jpg a/x.jpg e/1.jpg", {"exclude": ["a/**/d.jpg", "raw"]}, "a,e"),
    ],
)
def test_options_say_what_a_layout_does_not(tmp_path: Path, files: str, options: dict, expected: str) -> None:
    """`splits` names folders for splits, `exclude` leaves out names, or paths if it has a slash; so in a tar."""
    root = build(tmp_path / "set", files)
    source = open_source(root, options=SourceOptions(**options))
    assert said(source) == expected
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for path in paths(files):
            tar.add(root / path, path)
    packed = open_source(tmp_path / "set.tar", options=SourceOptions(**options))
    assert said(packed) == expected
    assert sorted(item.path for item in packed.items) == sorted(item.path for item in source.items)


def test_unmapped_and_unknown_folders_are_named(tmp_path: Path) -> None:
    """A folder that no split was named for is not dropped, and one that does not exist is not passed over."""
    build(tmp_path, "A/a/1.jpg A/b/2.jpg B/a/3.jpg B/b/4.jpg C/a/5.jpg")
    with pytest.raises(SourceError, match="--exclude C"):
        open_source(tmp_path, options=SourceOptions(splits={"train": "A", "test": "B"}))
    with pytest.raises(SourceError, match=r"'X'.*'A', 'B', 'C'"):
        open_source(tmp_path, options=SourceOptions(splits={"train": "A", "test": "X"}))


def test_classes_that_are_named_are_classes(tmp_path: Path) -> None:
    """Naming all folders as classes answers every question about them; naming some keeps the question."""
    build(tmp_path, "benign/40X/1.jpg benign/100X/2.jpg malignant/40X/3.jpg malignant/100X/4.jpg")
    with pytest.raises(SourceError, match="--classes benign,malignant"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="--classes benign,malignant"):
        open_source(tmp_path, classes=["benign"])
    assert said(open_source(tmp_path, classes=["malignant", "benign"])) == "benign,malignant"


def test_a_glob_that_leaves_nothing_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt --exclude is not silent; one that works is."""
    build(tmp_path, "a/1.jpg b/2.jpg")
    open_source(tmp_path, options=SourceOptions(exclude=["c", "2.jpg"]))
    assert "nothing is left out by --exclude c" in caplog.text
    assert "2.jpg" not in caplog.text


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    """Folders that hold nothing but a link to themselves are no endless layout."""
    for name in ("train", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).symlink_to(tmp_path / name)
    with pytest.raises(SourceError):
        open_source(tmp_path)


NAMES = st.sampled_from(
    [
        "train",
        "test",
        "Val",
        "cats",
        "dogs",
        "images",
        "labels",
        "a\nb",
        "\udcff",
        "it's",
        "fold1",
        "fold2",
        "masks",
        "x_mask",
        "cat",
        "new",
        "100CANON",
        "__MACOSX",
        "@eaDir",
    ]
)
FILES = st.sampled_from(["1.jpg", "2.png", "notes.txt", ".hidden", "Thumbs.db", "x"])


@settings(max_examples=250, deadline=None)
@given(
    st.sets(
        st.tuples(NAMES, FILES) | st.tuples(NAMES, NAMES, FILES) | st.tuples(NAMES, NAMES, NAMES, FILES),
        min_size=1,
        max_size=8,
    ),
    st.booleans(),
)
def test_any_layout_is_read_whole_or_refused(tmp_path_factory, files: set[tuple[str, ...]], packed: bool) -> None:
    """Whatever lies there, a source has every image once, under a folder's name, or is refused in one line."""
    root = Path(tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp())) / "set"
    names = ["/".join(parts) for parts in files]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    source: Path = root
    if packed:
        source = root / "set.tar"
        with tarfile.open(source, "w") as tar:
            for name in names:
                tar.add(root / name, name)
    logging.disable()  # a name that is not UTF-8 cannot be sent from one test process to another
    try:
        items = list(open_source(source).items)
    except SourceError as error:
        assert "\n" not in str(error)
        return
    finally:
        logging.disable(logging.NOTSET)
    wanted = [name for name in names if not any(map(layouts.is_litter, name.split("/")))]
    wanted = [name for name in wanted if not name.endswith(".txt")]
    if packed:  # where that is the ending of labels
        items = [item for item in items if not item.path.endswith(".txt")]
    assert sorted(item.path for item in items) == sorted(wanted)
    for item in items:
        folders = item.path.split("/")[:-1]
        assert item.label is None or item.label in folders
        assert item.split in (None, *layouts.known_splits(folders).values())
        assert item.label not in ("train", "test", "Val") or item.split is not None
