"""miniImageNet and tieredImageNet: the published pickles in small, each form that is in circulation."""

import pickle
from itertools import chain

import numpy as np
import pytest
import torch

from ctml.data import DataError, load, mini_imagenet, tiered_imagenet
from ctml.data.splits import class_names

PER_CLASS = 3
SPLITS = {"train": 64, "val": 16, "test": 20}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(mini_imagenet, "PER_CLASS", PER_CLASS)


def mini(split: str, names: list[str] | None = None) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Images and class dictionary, the rows of the classes interleaved; the class is in the first pixel."""
    names = names or class_names("mini_imagenet", split)
    images = np.zeros((PER_CLASS * len(names), 84, 84, 3), np.uint8)
    rows = {name: list(range(i, len(images), len(names))) for i, name in enumerate(names)}
    for i, name in enumerate(names):
        images[rows[name], 0, 0] = (i, 1, 2)
    return images, rows


def cache(split: str, **options) -> bytes:
    images, rows = mini(split, **options)
    return pickle.dumps({"image_data": images, "class_dict": rows}, protocol=2)


def check(split: str, names: tuple[str, ...] | None, remark: str = "") -> None:
    pool = load("mini_imagenet", split, download=False)
    assert pool.names == (names or tuple(class_names("mini_imagenet", split)))
    assert pool.examples.shape == (PER_CLASS * SPLITS[split], 3, 84, 84) and pool.examples.dtype == torch.uint8
    assert torch.equal(pool.examples[:, 0, 0, 0].long(), torch.arange(SPLITS[split]).repeat_interleave(PER_CLASS))
    assert pool.examples[0, :, 0, 0].tolist() == [0, 1, 2]  # red, green, blue
    assert pool.source == f"mini_imagenet/{split}{remark}"


def test_the_official_split_has_a_hundred_classes():
    names = [class_names("mini_imagenet", split) for split in SPLITS]
    assert [len(these) for these in names] == list(SPLITS.values()) and len(set(chain(*names))) == 100


@pytest.mark.parametrize("split", SPLITS)
def test_the_pickle_of_the_download(split, placed):
    placed(f"mini_imagenet/mini-imagenet-cache-{'validation' if split == 'val' else split}.pkl", cache(split))
    check(split, None, remark=" (not the published file)")


def test_the_tar_of_ren_et_al(placed, pack):
    files = {f"mini-imagenet-cache-{split}.pkl": cache(split) for split in SPLITS}
    placed("mini_imagenet/mini-imagenet.tar.gz", pack.tar(files))
    check("val", None)


def test_the_pickle_of_lee_et_al_numbers_its_classes(placed):
    images, rows = mini("test")
    labels = np.zeros(len(images), int)
    for i, indices in enumerate(rows.values()):
        labels[indices] = 80 + i
    data = pickle.dumps({"data": images, "labels": labels.tolist()}, protocol=2)
    placed("mini_imagenet/miniImageNet_category_split_test.pickle", data)
    check("test", tuple(f"test_{80 + i:03d}" for i in range(20)))


def test_a_split_under_the_wrong_name_is_refused(placed):
    placed("mini_imagenet/mini-imagenet-cache-train.pkl", cache("train", names=[f"n{i:08d}" for i in range(64)]))
    with pytest.raises(DataError, match="does not hold the 64 official train classes"):
        load("mini_imagenet", "train", download=False)


@pytest.mark.parametrize(("data", "message"), [(b"\x80\x02}q\x00", "damaged or cut off"), (b"<html>", "HTML page")])
def test_a_broken_pickle_is_named(placed, data, message):
    path = placed("mini_imagenet/mini-imagenet-cache-test.pkl", data)
    with pytest.raises(DataError, match=message) as error:
        load("mini_imagenet", "test", download=False)
    assert str(path) in str(error.value)


def test_a_truncated_pickle_is_named(placed):
    placed("mini_imagenet/mini-imagenet-cache-test.pkl", cache("test")[:-1000])
    with pytest.raises(DataError, match="damaged or cut off"):
        load("mini_imagenet", "test", download=False)


def test_what_is_missing_says_where_to_put_it(home):
    with pytest.raises(DataError, match="place it by hand at") as error:
        load("mini_imagenet", "val", download=False)
    assert str(home / "mini_imagenet" / "mini-imagenet-cache-validation.pkl") in str(error.value)


@pytest.fixture
def tiered(placed, pack, monkeypatch):
    """Three classes of 1, 2 and 3 images, shuffled, as PNG arrays like those of OpenCV."""
    monkeypatch.setattr(tiered_imagenet, "CONTENTS", {"val": (3, 6)})
    labels = np.array([2, 0, 1, 2, 1, 2])
    images = []
    for label in labels:
        pixels = np.full((84, 84, 3), 10 * label, np.uint8)
        images.append(np.frombuffer(pack.png(pixels), np.uint8)[:, None].copy())

    def place(labels=labels, prefix="tiered-imagenet-"):
        about = {"label_specific": labels, "label_specific_str": ["fox", "owl", "yak"], "label_general": labels}
        placed(f"tiered_imagenet/{prefix}val_images_png.pkl", pickle.dumps(images, protocol=2))
        placed(f"tiered_imagenet/{prefix}val_labels.pkl", pickle.dumps(about, protocol=2))

    return place


@pytest.mark.parametrize("prefix", ["tiered-imagenet-", ""])
def test_tiered_groups_classes_of_different_sizes(tiered, prefix):
    tiered(prefix=prefix)
    pool = load("tiered_imagenet", "val", download=False)
    assert pool.names == ("fox", "owl", "yak") and pool.counts.tolist() == [1, 2, 3]
    assert pool.examples.shape == (6, 3, 84, 84)
    assert pool.examples[:, 1, 40, 40].tolist() == [0, 10, 10, 20, 20, 20]


def test_tiered_notices_missing_labels(tiered):
    tiered(labels=np.array([0, 1, 2]))
    with pytest.raises(DataError, match="'label_specific' has 3 numbers instead of 6"):
        load("tiered_imagenet", "val", download=False)
