"""A person's own images: layouts, sizes, colours, uneven classes, and the mistakes people make."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ctml.data import DataError, load


@pytest.fixture
def root(tmp_path, pack):
    """Two classes without splits: one red image 50x40, two grey ones 20x20."""
    red = np.zeros((40, 50, 3), np.uint8)
    red[..., 0] = 200
    files = {
        "elm/a.png": pack.png(red),
        "oak/a.png": pack.png(np.full((20, 20), 90, np.uint8)),
        "oak/b.png": pack.png(np.full((20, 20), 30, np.uint8)),
    }
    return write(tmp_path / "trees", files)


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_one_folder_a_class(root):
    pool = load("folder", "all", root=root, size=16)
    assert pool.names == ("elm", "oak") and pool.counts.tolist() == [1, 2]
    assert pool.examples.shape == (3, 3, 16, 16) and pool.examples.dtype == torch.uint8
    assert pool.examples[:, :, 8, 8].tolist() == [[200, 0, 0], [90, 90, 90], [30, 30, 30]]
    assert pool.source == "folder trees/all"


def test_grey(root):
    pool = load("folder", "all", root=root, size=16, colour="grey")
    assert pool.examples.shape == (3, 1, 16, 16)
    assert pool.examples[1:, 0, 8, 8].tolist() == [90, 30]


def test_splits_above_the_classes(root, tmp_path):
    split = tmp_path / "split"
    split.mkdir()
    root.rename(split / "train")
    assert load("folder", "train", root=split, size=8).names == ("elm", "oak")
    with pytest.raises(ValueError, match=r"split='test' is not in .*; it has: train"):
        load("folder", "test", root=split)


def test_a_zip_reads_like_the_folder(root, tmp_path, pack):
    files = {f"trees/{p.relative_to(root).as_posix()}": p.read_bytes() for p in root.rglob("*.png")}
    (tmp_path / "trees.zip").write_bytes(pack.zip({**files, "__MACOSX/trees/elm/._a.png": b"junk"}))
    from_zip, from_folder = (load("folder", "all", root=r, size=8) for r in (tmp_path / "trees.zip", root))
    assert from_zip.names == from_folder.names and torch.equal(from_zip.examples, from_folder.examples)


def test_a_changed_image_is_read_again(root, pack):
    load("folder", "all", root=root, size=8)
    (root / "oak" / "c.png").write_bytes(pack.png(np.full((9, 9), 250, np.uint8)))
    assert load("folder", "all", root=root, size=8).counts.tolist() == [1, 3]


def test_nothing_is_written_into_the_readers_folder(root):
    before = sorted(root.rglob("*"))
    load("folder", "all", root=root, size=8)
    assert sorted(root.rglob("*")) == before


def test_an_empty_class_is_named(root):
    (root / "ash").mkdir()
    with pytest.raises(DataError, match="class 'ash' of 'all' has 0 images"):
        load("folder", "all", root=root)


def test_a_class_without_images_is_named(root):
    write(root, {"ash/notes.txt": b"none yet"})
    with pytest.raises(DataError, match="class 'ash' of 'all' has 0 images"):
        load("folder", "all", root=root)


def test_too_few_images_for_the_tasks_are_named(root):
    with pytest.raises(DataError, match="class 'elm' of 'all' has 1 images, fewer than 2"):
        load("folder", "all", root=root, at_least=2)


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n cut"])
def test_an_unreadable_image_is_named(root, data):
    write(root, {"oak/broken.png": data})
    with pytest.raises(DataError, match=r"image oak/broken\.png cannot be read"):
        load("folder", "all", root=root)


def test_a_truncated_image_is_named(root):
    write(root, {"oak/cut.png": (root / "oak" / "a.png").read_bytes()[:-30]})
    with pytest.raises(DataError, match=r"image oak/cut\.png cannot be read"):
        load("folder", "all", root=root)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load("folder", "all", root=tmp_path / "nowhere")


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty"):
        load("folder", "all", root=tmp_path / "empty")


def test_loose_images_without_class_folders_are_named(tmp_path, pack):
    root = write(tmp_path / "loose", {"a.png": pack.png(np.zeros((4, 4), np.uint8))})
    with pytest.raises(DataError, match="no class folders"):
        load("folder", "all", root=root)


@pytest.mark.parametrize("options", [{"colour": "cmyk"}, {"size": 0}])
def test_senseless_options_are_refused(root, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        load("folder", "all", root=root, **options)


def test_without_a_folder_says_how():
    with pytest.raises(ValueError, match="name the folder"):
        load("folder", "all")


def test_a_climbing_zip_is_refused(tmp_path, pack):
    path = tmp_path / "evil.zip"
    path.write_bytes(pack.zip({"elm/a.png": b"x", "../../evil.png": b"x"}))
    with pytest.raises(DataError, match="leads out of the archive"):
        load("folder", "all", root=path)
