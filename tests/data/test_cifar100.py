"""CIFAR-FS and FC100: the official splits over one CIFAR-100 archive of the published layout."""

import pickle
from itertools import chain

import numpy as np
import pytest
import torch

from ctml.data import DataError, cifar100, load
from ctml.data.splits import class_names

NAMES = sorted(name for split in ("train", "val", "test") for name in class_names("fc100", split))
PER_CLASS = 6  # 5 in "train", 1 in "test"


def batch(per_class: int, seed: int) -> bytes:
    """One batch as Python 2 pickled it: rows of 3 * 32 * 32 bytes, red plane first; the label is in the first pixel."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(100), per_class))
    data = np.zeros((len(labels), 3072), np.uint8)
    data[:, 0] = labels  # red, top left
    data[:, -1] = seed + 1  # blue, bottom right
    return pickle.dumps({"data": data, "fine_labels": labels.tolist(), "filenames": ["x"]}, protocol=2)


@pytest.fixture
def files():
    meta = pickle.dumps({"fine_label_names": NAMES}, protocol=2)
    folder = "cifar-100-python"
    return {f"{folder}/train": batch(5, 0), f"{folder}/test": batch(1, 1), f"{folder}/meta": meta}


@pytest.fixture
def small(files, placed, pack, monkeypatch):
    monkeypatch.setattr(cifar100, "PER_CLASS", PER_CLASS)
    return placed("cifar100/cifar-100-python.tar.gz", pack.tar(files))


@pytest.mark.parametrize(("name", "sizes"), [("cifar_fs", (64, 16, 20)), ("fc100", (60, 20, 20))])
def test_the_official_splits_partition_the_classes(name, sizes):
    splits = [class_names(name, split) for split in ("train", "val", "test")]
    assert tuple(map(len, splits)) == sizes
    assert sorted(chain(*splits)) == NAMES


def test_classes_known_to_lie_where_the_papers_put_them():
    assert {"whale", "rocket", "baby", "wardrobe"} <= set(class_names("cifar_fs", "test"))
    assert {"whale", "bee", "fox", "baby"} <= set(class_names("fc100", "test"))  # four whole superclasses
    assert {"bear", "camel", "crab", "mouse"} <= set(class_names("fc100", "val"))


@pytest.mark.parametrize("name", ["cifar_fs", "fc100"])
def test_images_stand_under_their_class(small, name):
    for split in ("train", "val", "test"):
        pool = load(name, split)
        assert (
            pool.names == tuple(class_names(name, split)) and pool.source == f"{name}/{split} (not the published file)"
        )
        assert pool.examples.shape == (PER_CLASS * pool.n_classes, 3, 32, 32)
        labels = pool.examples[:, 0, 0, 0].long()
        expected = torch.tensor([NAMES.index(n) for n in pool.names]).repeat_interleave(PER_CLASS)
        assert torch.equal(labels, expected)
        assert sorted(pool.examples[:PER_CLASS, 2, 31, 31].tolist()) == [1] * 5 + [2]


def test_an_unpacked_folder_does_as_well(files, placed, monkeypatch):
    monkeypatch.setattr(cifar100, "PER_CLASS", PER_CLASS)
    for name, data in files.items():
        placed(f"cifar100/{name}", data)
    assert load("cifar_fs", "val").n_classes == 16


def test_wrong_counts_are_named(files, placed, pack):
    path = placed("cifar100/cifar-100-python.tar.gz", pack.tar(files))
    with pytest.raises(DataError, match="100 classes of 6 to 6 images instead of 600") as error:
        load("fc100", "train")
    assert str(path) in str(error.value)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_truncated_archive_is_named(small, keep):
    data = small.read_bytes()
    small.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match="damaged or cut off"):
        load("fc100", "train")


class Evil:
    def __reduce__(self):
        return (print, ("the pickle ran",))


def test_a_pickle_that_wants_to_run_something_is_refused(files, placed, pack, capsys):
    placed("cifar100/cifar-100-python.tar.gz", pack.tar({**files, "cifar-100-python/train": pickle.dumps(Evil())}))
    with pytest.raises(DataError, match=r"wants to load builtins\.print"):
        load("fc100", "train")
    assert capsys.readouterr().out == ""
