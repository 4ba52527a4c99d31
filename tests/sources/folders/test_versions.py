import tarfile
from pathlib import Path

import pytest

from featcache.sources import Items, SourceOptions, SplitPolicy, digest
from featcache.sources.opening import open_source


def build(root: Path, files: str) -> Path:
    """Make small files, given by their paths with bars between."""
    for name in files.split("|"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def together(source: object) -> set[frozenset[str]]:
    """Return the names of images that are one group."""
    items = Items.of(source.items)
    found: dict[str, set[str]] = {}
    for item in items:
        if item.group is not None:
            found.setdefault(item.group, set()).add(item.path)
    return {frozenset(paths) for paths in found.values()}


@pytest.mark.parametrize(
    ("files", "groups", "said"),
    [
        ("a/1.CR2|a/1.JPG|b/2.CR2|b/2.JPG", "a/1.CR2+a/1.JPG|b/2.CR2+b/2.JPG", "2 images have the name of another"),
        ("a/1.jpg|a/1.NEF|b/2.jpg", "a/1.jpg+a/1.NEF", "leave one kind out with --exclude '*.NEF'"),
        ("a/x.jpg|a/x.png|b/y.jpg|b/z.png", "a/x.jpg+a/x.png", "1 image has the name of another one"),
        ("a/x.jpg|a/x.png|b/y.jpg|b/z.png|b/q.jpg", "a/x.jpg+a/x.png", "If they show the same, remove one of each"),
        (
            "a/x.jpg|a/x_flip.jpg|b/y.jpg",
            "a/x.jpg+a/x_flip.jpg",
            "by name, 1 image is a copy of another one, such as "
            "'a/x_flip.jpg'. Such images stay in one split. Leave the copies out with --exclude '*_flip*'",
        ),
        (
            "a/x_rot90.jpg|a/x.jpg|a/x_rot180.png",
            "a/x_rot90.jpg+a/x.jpg+a/x_rot180.png",
            "2 images are copies of others",
        ),
        ("a/1.jpg|a/1_aug1.jpg|b/1.jpg", "a/1.jpg+a/1_aug1.jpg", "--exclude '*_aug*'"),
        ("a/1.jpg|a/1 (1).jpg|a/2.jpg", "a/1.jpg+a/1 (1).jpg", "--exclude '* (1).*'"),
        (
            "a/1.jpg|a/1 - Copy.jpg|a/1 - Copy (2).jpg|a/2.jpg",
            "a/1.jpg+a/1 - Copy.jpg+a/1 - Copy (2).jpg",
            "2 images are",
        ),
        ("a/t31_B02.tif|a/t31_B03.tif|b/t32_B02.tif", "a/t31_B02.tif+a/t31_B03.tif", "--exclude '*_B03*'"),
        (
            "a/7_ch1.tif|a/7_ch2.tif|a/7_dapi.tif",
            "a/7_ch1.tif+a/7_ch2.tif+a/7_dapi.tif",
            "--exclude '*_ch2*' --exclude '*_dapi*'",
        ),
        ("a/x.jpg|a/x-300x200.jpg|a/x@2x.jpg|b/1.jpg", "a/x.jpg+a/x-300x200.jpg+a/x@2x.jpg", "2 images are copies"),
        ("a/x.jpg|a/Copy of x.jpg", "a/x.jpg+a/Copy of x.jpg", "--exclude 'Copy of *'"),
        (
            "a/original/leaf7b.jpg|a/more/leaf7b_90deg.jpg|b/1.jpg",
            "a/original/leaf7b.jpg+a/more/leaf7b_90deg.jpg",
            "copy",
        ),
        (
            "a/I_1_jpg.rf.0a1b2c3d.jpg|a/I_1_jpg.rf.1a1b2c3d.jpg|a/I_2_jpg.rf.2a1b2c3d.jpg",
            "a/I_1_jpg.rf.0a1b2c3d.jpg+a/I_1_jpg.rf.1a1b2c3d.jpg",
            "1 image is a copy of another one",
        ),
        (
            "a/u_1_crop.png|a/u_1_maskcrop.png|a/u_1_depthcrop.png",
            "a/u_1_crop.png+a/u_1_maskcrop.png+a/u_1_depthcrop.png",
            "2 files look like masks or channels of images beside them and count as images",
        ),
        (
            "a/1.jpg|a/1_mask.png|b/2.jpg",
            "a/1.jpg+a/1_mask.png",
            "1 file looks like a mask or channel of an image "
            "beside it and counts as an image, such as 'a/1_mask.png'. Leave it out with --exclude '*_mask*'",
        ),
        (
            "|".join(f"a/leaf ({i}){mark}.png" for i in range(1, 6) for mark in ("", "_mask"))
            + "|a/leaf (1)_mask_1.png",
            "|".join(
                f"a/leaf ({i}).png+a/leaf ({i})_mask.png" + "+a/leaf (1)_mask_1.png" * (i == 1) for i in range(1, 6)
            ),
            "6 files look like masks or channels of images beside them and count as images, such as 'a/leaf (1)_mask",
        ),
        (
            "a/u (1).jpg|a/u (1)_flipped.jpg|a/u (2).jpg|a/u (2) - Copy.jpg|a/u (9)_edited.png|a/u (9).jpg",
            "a/u (1).jpg+a/u (1)_flipped.jpg|a/u (2).jpg+a/u (2) - Copy.jpg|a/u (9)_edited.png+a/u (9).jpg",
            "3 images are copies of others",
        ),
        ("a/u.jpg|a/u (1).jpg|a/u (1)_flip.jpg|b/1.jpg", "a/u.jpg+a/u (1).jpg+a/u (1)_flip.jpg", "2 images are copies"),
        (
            "a/u [1].jpg|a/u [1]_rot90.jpg|a/v..jpg|a/v._rot90.jpg|a/w_.jpg|a/w__blur.jpg",
            "a/u [1].jpg+a/u [1]_rot90.jpg|a/v..jpg+a/v._rot90.jpg|a/w_.jpg+a/w__blur.jpg",
            "3 images are copies",
        ),
        ("a/u (1).jpg|a/u (1).NEF|a/u (2).jpg", "a/u (1).jpg+a/u (1).NEF", "--exclude '*.NEF'"),
        (
            "a/u0.jpg|a/mask_u0.png|a/u1.jpg|a/mask_u1.png",
            "a/u0.jpg+a/mask_u0.png|a/u1.jpg+a/mask_u1.png",
            "Leave them out with --exclude 'mask_*'",
        ),
        (
            "a/u0.jpg|a/u0_superpixels.png|a/u0_lesion.bmp|a/u0_masked.jpg|a/u0_binary.png|a/u0_inpainted.png",
            "a/u0.jpg+a/u0_superpixels.png+a/u0_lesion.bmp+a/u0_masked.jpg+a/u0_binary.png+a/u0_inpainted.png",
            "5 files look like masks or channels",
        ),
    ],
)
def test_versions_of_an_image_are_said_and_stay_together(
    tmp_path: Path, caplog, files: str, groups: str, said: str
) -> None:
    """Files whose names say that they show one image are a group, in folders and in tar files, with a warning."""
    root = build(tmp_path / "set", files)
    expected = {frozenset(one.split("+")) for one in groups.split("|")}
    source = open_source(root, classes=sorted({name.split("/")[0] for name in files.split("|")}))
    assert together(source) == expected
    assert said in caplog.text
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(root, "")
    assert together(open_source(tmp_path / "set.tar")) == expected


@pytest.mark.parametrize(
    "files",
    [
        "a/images.jpg|a/images (1).jpg|a/images (2).jpg|b/1.jpg",
        "a/download.jpg|a/download (1).jpg|b/1.jpg",
        "a/fire.jpg|a/fire (1).jpg|a/fire (2).jpg|a/fire (3).jpg|a/fire (4).jpg|b/1.jpg",
        "a/cat (1).jpg|a/cat (2).jpg|b/dog (1).jpg",
        "a/rock_dark_1.jpg|a/rock_dark_2.jpg|b/1.jpg",
        "a/1.jpg|a/2.jpg|b/1.png|b/2.jpg",
        "a/x_flip.jpg|a/y_flip.jpg|b/z_rot90.jpg",
        "a/x_mask.png|a/y.png|b/x.png",
        "a/1_jpg.rf.0a1b2c3d.jpg|a/2_jpg.rf.0a1b2c3e.jpg|b/1.jpg",
        "a/lesion_1.jpg|a/lesion_2.jpg|a/binary.png|b/masked.jpg|b/mask_1.jpg|b/mask_2.jpg",
        "a/clip_7.jpg|a/_flip.jpg|a/flip.jpg|b/_mask.png",
    ],
)
def test_a_series_is_not_taken_for_copies(tmp_path: Path, caplog, files: str) -> None:
    """Numbered downloads, names of light and files of other folders are neither grouped nor said."""
    assert not together(open_source(build(tmp_path / "set", files)))
    assert not caplog.records


def test_versions_are_on_one_side_of_a_draw(tmp_path: Path) -> None:
    """However validation is drawn, an image and its turned copies are in one split."""
    names = [f"{label}/{i}{mark}.jpg" for label in "ab" for i in range(30) for mark in ("", "_flip", "_rot90")]
    items = Items.of(open_source(build(tmp_path / "set", "|".join(names))).items)
    for seed in range(5):
        policy = SplitPolicy(0.3, seed=seed)
        sides: dict[str, set[str]] = {}
        for item in items:
            split = policy.split_of(item, digest(item.path.encode()))
            sides.setdefault(item.path.split(".")[0].split("_")[0], set()).add(split)
        assert {len(splits) for splits in sides.values()} == {1}
        assert {next(iter(splits)) for splits in sides.values()} == {"train", "validation"}


def test_copies_in_two_splits_are_said(tmp_path: Path, caplog) -> None:
    """Where the source's own splits divide an image from its copy, scores are too good: a warning says so."""
    root = build(tmp_path / "set", "train/a/u8f_flipLR.jpg|train/a/x.jpg|val/a/u8f.jpg|val/a/1.jpg|train/a/1_flip.jpg")
    open_source(root)
    assert "1 copy of an image is in another split than the image or other copies, such as 'train/a/u8f" in caplog.text
    assert "Leave the copies out with --exclude '*_flipLR*'" in caplog.text


def test_numbered_masks_in_two_splits_of_a_table_are_said(tmp_path: Path, caplog) -> None:
    """In tables with splits of their own, too, an image and its copy may have a number in brackets."""
    names = ["u (1).png", "u (1)_mask.png", "u (2).png", "u (2)_flip.png"]
    table = build(tmp_path, "|".join(names)) / "t.csv"
    table.write_text(
        "path,label,split\n"
        + "".join(f"{name},a,{split}\n" for name, split in zip(names, ("train", "train", "train", "test"), strict=True))
    )
    open_source(table)
    assert "1 file looks like a mask or channel of an image beside it" in caplog.text
    assert "1 copy of an image is in another split than the image or other copies, such as 'u (2)_flip" in caplog.text


def test_groups_of_a_table_are_kept(tmp_path: Path, caplog) -> None:
    """A table's own groups are not changed; without them, versions are groups there, too."""
    root = build(tmp_path, "x.jpg|x_flip.jpg|y.jpg")
    table = root / "t.csv"
    table.write_text("path,label\nx.jpg,a\nx_flip.jpg,a\ny.jpg,b\n")
    assert together(open_source(table)) == {frozenset({"x.jpg", "x_flip.jpg"})}
    table.write_text("path,label,group\nx.jpg,a,1\nx_flip.jpg,a,2\ny.jpg,b,1\n")
    assert together(open_source(table)) == {frozenset({"x.jpg", "y.jpg"}), frozenset({"x_flip.jpg"})}
    assert "stay in one split" not in caplog.records[-1].getMessage()


def test_left_out_copies_leave_no_group(tmp_path: Path, caplog) -> None:
    """The advice works: without the copies nothing is grouped or said."""
    root = build(tmp_path / "set", "a/x.jpg|a/x_flip.jpg|a/y.jpg|a/y.CR2")
    assert not together(open_source(root, options=SourceOptions(exclude=["*_flip*", "*.CR2"])))
    assert not caplog.records
