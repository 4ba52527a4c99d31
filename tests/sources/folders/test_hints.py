import logging
from pathlib import Path

import pytest
from test_branches import build

from featcache.sources.opening import open_source


@pytest.mark.parametrize(
    "files",
    [
        "0/1.png 1/1.png 2/1.png",
        "n01440764/1.jpg n01443537/2.jpg",
        "class1/1.jpg class2/2.jpg",
        "with_mask/1.jpg without_mask/2.jpg",
        "Ford GT 2006/1.jpg Bentley GT 2007/2.jpg Audi/3.jpg",
        "copper/1.jpg cop (1)/2.jpg",
        "a/x_mask.png b/y.png",
        "in/1.jpg in/2.jpg in/3.jpg out/1.png out/2.png out/4.png",
        "train/a/1.jpg train/b/2.jpg test/all/3.jpg",
        "a/1.jpg a/2.jpg a/3.jpg b/1.jpg b/2.jpg b/3.jpg",
        "a/IMG_0001.jpg a/IMG_0002.jpg a/IMG_0003.jpg b/IMG_0001.jpg b/IMG_0002.jpg b/IMG_0003.jpg",
        "a/img (1).png a/img (2).png a/img (3).png b/img (1).png b/img (2).png b/img (3).png",
        "person1/1.jpg person2/2.jpg person3/3.jpg",
        "Sample001/1.png Sample002/2.png",
        "id_00001/1.jpg id_00002/2.jpg",
        "glass/1.jpg grass/2.jpg class/3.jpg",
        "bus/1.jpg bu/2.jpg",
        "run/1.jpg walk/2.jpg",
        "old/1.jpg young/2.jpg",
        "clean/1.jpg dirty/2.jpg",
        "x/1.jpg y/2.jpg z/3.jpg",
        "40X/1.jpg 100X/2.jpg",
        "32x32/1.jpg 64x64/2.jpg",
        "a1/1.jpg b2/2.jpg",
        "fox/1.jpg gray fox/2.jpg",
        "york/1.jpg new orleans/2.jpg",
        "all/1.jpg hem/2.jpg",
        "model3/1.jpg model5/2.jpg owl/3.jpg",
        "May/1.jpg April/2.jpg June/3.jpg Rose/4.jpg",
        "train/a/v1_frame_001.jpg train/b/2.jpg test/a/v1_frame_002.jpg",
    ],
)
def test_what_is_usual_is_not_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, files: str) -> None:
    """Numbered classes, classes about masks and the like give no warning."""
    open_source(build(tmp_path, files))
    assert not caplog.records


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ("Cat/1.jpg cat/2.jpg", "'Cat', 'cat'"),
        ("maine coon/1.jpg maine  coon/2.jpg", "'maine  coon', 'maine coon'"),
        ("caf\u00e9/1.jpg cafe\u0301/2.jpg", r"'cafe\u0301', 'caf\xe9'"),
        ("train/a/1.jpg train/b/2.jpg val/3.jpg", "validation has no labels"),
        ("train/1.jpg test/a/2.jpg test/b/3.jpg", "train has no labels"),
        ("train/a/1.jpg train/b/2.jpg val/a/.keep val/b/.keep", "val/a has no file"),
        ("train/x/a/1.jpg train/x/b/2.jpg test/a/3.jpg", "the class folders of train are taken from train/x"),
        ("animals/cats/1.jpg vehicles/cars/2.jpg", "such as animals/cats"),
        ("animals/cats/1.jpg animals/dogs/2.jpg cars/3.jpg", "such as animals/cats"),
        ("train/a/1.jpg test/a/2.jpg cover.jpg", "'cover.jpg'"),
        ("train/a/1.jpg test/a/2.jpg README.md labels.csv", "'labels.csv'"),
        ("train/a/1.jpg test/a/2.jpg labels.xlsx", "'labels.xlsx'"),
        ("train/1.jpg test/2.jpg", "no split has class folders"),
        ("train/a/1.jpg train/b/2.jpg test/whatever/3.jpg", "test has no labels"),
        ("train/a/1.jpg train/b/2.jpg val/a/3.jpg val/c/4.jpg", "classes of validation are not in train: 'c'"),
        ("cats/1.jpg dogs/2.jpg New folder/3.jpg cats (1)/4.jpg", "new folders, and each is a class: 'New folder', 'c"),
        ("cats/1.jpg cats - Copy/2.jpg", "'cats - Copy'"),
        ("week_1/1.jpg week_2/2.jpg", "'week_1', 'week_2'"),
        ("patient001/1.jpg patient002/2.jpg", "by a number only"),
        ("2019-08-01/1.jpg 2019-08-02/2.jpg", "by a number only"),
        ("hats/1.jpg masks/2.jpg shoes/3.jpg ties/4.jpg rings/5.jpg", "--exclude masks"),
        ("a/x.png a/x_mask.png a/x_mask_1.png b/y.png b/mask.png", "2 files look like masks or channels"),
        ("1.jpg 2.jpg", "no image has a label"),
        (" ".join(f"k{i:x}e/img.jpg" for i in range(12)), "12 of 12 classes have a single image"),
        ("0a/1.jpg 0b/2.jpg 1c/3.jpg ff/4.jpg", "by a number only are taken as classes: '0a', '0b'"),
        ("2020/1.jpg 2021/2.jpg", "by a number only are taken as classes: '2020', '2021'"),
        ("January/1.jpg February/2.jpg", "by a number only are taken as classes"),
        ("cat/1.jpg cat./2.jpg dog/3.jpg", "'cat', 'cat.'"),
        ("'cat'/1.jpg cat/2.jpg dog/3.jpg", "'cat'"),
        ("cat/1.jpg cat\u200b/2.jpg", "look alike"),
        ("cat/1.jpg \u0441at/2.jpg", "look alike"),
        ("noisy/1.png clean/1.png", "may be forms of the same images"),
        ("X/1.png Y/1.png", "may be forms of the same images"),
        ("source/1.png target/1.png", "may be forms of the same images"),
        (
            "a/patient1/1.png a/patient1/2.png a/patient2/3.png b/patient3/4.png",
            "images of one may be in several splits",
        ),
        ("a/v1_frame_001.jpg a/v1_frame_002.jpg a/v2_frame_001.jpg b/1.jpg", "3 images look like frames of 2 videos"),
        ("cat/1.jpg cats/2.jpg dog/3.jpg", "'cat', 'cats'"),
        ("Boxes/1.jpg box/2.jpg", "'Boxes', 'box'"),
        ("berry/1.jpg berries/2.jpg", "'berries', 'berry'"),
        ("train/cat/1.jpg train/dog/2.jpg val/cats/3.jpg val/dog/4.jpg", "'cat', 'cats'"),
        ("cats/1.jpg dogs/2.jpg runs/train/curve.png plots/loss.png", "taken as classes: 'plots', 'runs'"),
        (
            "cats/1.jpg dogs/2.jpg results/3.png Weights/4.png",
            "out with --exclude Weights --exclude results",
        ),
        ("cats/1.jpg dogs/2.jpg unlabelled/3.jpg", "--exclude unlabelled"),
        ("train/cats/1.jpg train/dogs/2.jpg train/augmented/3.jpg", "taken as classes: 'augmented'"),
        ("image/1.jpg table/2.jpg text/3.jpg", "'image' is taken as a class"),
        ("rgb/1.png rgb/2.png rgb/3.png thermal/1.png thermal/2.png thermal/3.png", "files of the same names"),
        (
            "a/u8x.jpg a/u9y.jpg a/v7x.jpg b/u8x.jpg b/u9y.jpg b/v7x.jpg b/1.jpg",
            "files of the same names: 'a', 'b'",
        ),
        ("a/x.png a/x_mask.png b/y.png", "--exclude '*_mask*'"),
        ("in/1.jpg in/2.jpg in/3.jpg out/1.png out/2.png out/3.png", "files of the same names: 'in', 'out'"),
        ("a/1.jpg a/1.xml b/2.jpg b/labels.csv b/c/3.AAE", "3 files are left out"),
        (
            "1.jpg 2.jpg notes.docx",
            "1 file is left out, as it is no image by its name, such as 'notes.docx'",
        ),
        ("a/1.jpg b/c/notes.txt", "b has no image: it is no class"),
        ("cats/1.jpg dogs/2.jpg _rejected/3.jpg", "--exclude _rejected"),
        ("cats/1.jpg dogs/2.jpg unsorted/3.jpg", "taken as classes: 'unsorted'"),
        *(
            (f"cat/1.jpg {name}/2.jpg dog/3.jpg", f"copies or new folders, and each is a class: '{name}'")
            for name in (
                "cat_augmented",
                "cat aug",
                "aug-cat",
                "cat_copy",
                "catFlipped",
                "cat_new",
                "cat2",
                "cat_2",
                "cat backup",
                "cat - Kopie",
                "Kopie von cat",
                "Copy of cat",
                "Copie de cat",
                "Neuer Ordner",
                "Neuer Ordner (2)",
                "Nouveau dossier",
                "Nueva carpeta",
            )
        ),
        *(
            (f"cat/1.jpg {name}/2.jpg dog/3.jpg", f"these folders are taken as classes: '{name}'")
            for name in (
                "all",
                "predict",
                "images_to_predict",
                "prediction",
            )
        ),
        ("rgb/rgb_0.png depth/depth_0.png", "may be forms of the same images"),
        ("DIV2K_train_HR/1.png DIV2K_train_LR_x2/1x2.png", "may be forms of the same images"),
    ],
)
def test_what_is_odd_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, files: str, text: str) -> None:
    """What is understood but may surprise is a warning with an example."""
    with caplog.at_level(logging.WARNING, "featcache"):
        open_source(build(tmp_path, files))
    assert text in caplog.text


@pytest.mark.parametrize(
    "names",
    [
        [f"{i}.jpg" for i in range(12)],
        [f"IMG_{1000 + i}.JPG" for i in range(8)],
        [f"{i:05}_{k:05}.png" for i in range(3) for k in range(4)],
        [f"{i}_ab.jpg" for i in range(5)],
        [f"IMG_{1000 + i}{mark}.JPG" for i in range(5) for mark in ("", "-edited")],
        [f"IMG_20240101_1200{i:02}.jpg" for i in range(5)],
        [f"im{i}{mark}.png" for i in range(5) for mark in ("", "_flip", "_rot90")],
        [f"DSC0{i}.JPG" for i in range(5)] + ["Screenshot_1.png", "PXL_7.MP.jpg"],
        [f"slide{i}_x{k}_y0.png" for i in range(3) for k in range(3)],
        [f"{i} (1).jpg" for i in range(5)] + [f"{i}.jpg" for i in range(5)],
    ],
)
def test_names_that_count_are_in_any_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture, names: list[str]) -> None:
    """Numbers and what cameras and programs write around them do not make folders forms of the same images."""
    for folders in (("cat", "dog"), ("rgb", "thermal")):
        caplog.clear()
        files = " ".join(f"{folder}/{name}" for folder in folders for name in names)
        open_source(build(tmp_path / folders[0], files))
        assert ("files of the same names" in caplog.text) == (folders[0] == "rgb")
