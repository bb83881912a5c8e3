"""miniImageNet and CIFAR-100 as single image files: folder, zip and tar give the pixels that the pickles give."""

import pickle

import numpy as np
import pytest
import torch

from ctml.data import DataError, cifar100, load, mini_imagenet
from ctml.data.splits import class_names

SPLITS = ("train", "val", "test")
PER_CLASS = 2


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(mini_imagenet, "PER_CLASS", PER_CLASS)
    monkeypatch.setattr(cifar100, "PER_CLASS", PER_CLASS)


def noise(n: int, side: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, side, side, 3), np.uint8)


def place(home, form: str, files: dict[str, bytes], pack) -> None:
    """Put image files into a dataset's folder as they are, as one zip, or as one tar."""
    home.mkdir(parents=True, exist_ok=True)
    if form == "folder":
        for name, data in files.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(data)
    else:
        (home / f"images.{form}").write_bytes(pack.zip(files) if form == "zip" else pack.tar(files))


@pytest.fixture
def mini(pack):
    """Two images a class, in the three layouts; and the validation split as the pickle of the download has it."""
    tree, flat = {}, {}
    for split in SPLITS:
        names = class_names("mini_imagenet", split)
        images = noise(PER_CLASS * len(names), 84)
        for i, image in enumerate(images):
            name = names[i // PER_CLASS]
            tree[f"{split}/{name}/{name}{i:08d}.png"] = flat[f"images/{name}{i:08d}.png"] = pack.png(image)
        if split == "val":
            rows = {name: [2 * i, 2 * i + 1] for i, name in enumerate(names)}
            pickled = pickle.dumps({"image_data": images, "class_dict": rows}, protocol=2)
    return tree, {f"mini-imagenet/{name}": data for name, data in tree.items()}, flat, pickled


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
@pytest.mark.parametrize("layout", [0, 1, 2], ids=["splits", "wrapped", "flat"])
def test_mini_imagenet_as_image_files_has_the_pixels_of_the_pickle(mini, home, pack, form, layout, tmp_path):
    place(home / "mini_imagenet", form, mini[layout], pack)
    pool = load("mini_imagenet", "val", download=False)
    assert pool.source == "mini_imagenet/val (from single images)"
    other = tmp_path / "other" / "mini_imagenet"
    other.mkdir(parents=True)
    (other / "mini-imagenet-cache-val.pkl").write_bytes(mini[-1])
    expected = load("mini_imagenet", "val", root=tmp_path / "other", download=False)
    assert pool.names == expected.names and torch.equal(pool.counts, expected.counts)
    assert torch.equal(pool.examples, expected.examples)


def test_an_archive_a_split(mini, home, pack):
    for split in SPLITS:
        files = {name: data for name, data in mini[0].items() if name.startswith(split)}
        (home / "mini_imagenet").mkdir(parents=True, exist_ok=True)
        (home / "mini_imagenet" / f"{split}.tar").write_bytes(pack.tar(files))
    assert [load("mini_imagenet", split, download=False).n_classes for split in SPLITS] == [64, 16, 20]


def test_half_of_mini_imagenet_a_wrong_class_list_and_other_sizes_are_named(mini, home, pack, tmp_path):
    first = class_names("mini_imagenet", "test")[0]
    val = class_names("mini_imagenet", "val")[0]
    of_test = {name: data for name, data in mini[0].items() if name.startswith("test/")}
    broken = {
        "half": (dict(list(of_test.items())[::2]), f"class {first} has 1 images instead of 2, and 19 more of 20"),
        "wrong": ({**of_test, f"test/{val}/{val}1.png": b""}, f"lies under test.*do not include '{val}'"),
        "elsewhere": ({f"train/{first}/a.png": b""}, f"lies outside test, to which class {first} belongs"),
        "size": ({name: pack.png(noise(1, 64)[0]) for name in of_test}, "is 64x64, not 84x84"),
        "damage": (dict.fromkeys(of_test, b"\x89PNG\r\n\x1a\n cut"), "cannot be read"),
    }
    for case, (files, message) in broken.items():
        place(tmp_path / case / "mini_imagenet", "folder", files, pack)
        with pytest.raises(DataError, match=message) as error:
            load("mini_imagenet", "test", root=tmp_path / case, download=False)
        assert str(tmp_path / case) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
@pytest.mark.parametrize("spelt", [str, lambda name: name.replace("_", " ")], ids=["underscores", "spaces"])
def test_cifar100_as_png_files_has_the_pixels_of_the_pickles(home, pack, form, spelt, tmp_path):
    names = sorted(name for split in SPLITS for name in class_names("fc100", split))
    images = {"train": noise(100, 32), "test": noise(101, 32)[:100]}
    files = {f"{p}/{spelt(names[i])}/a{i:04d}.png": pack.png(images[p][i]) for p in images for i in range(100)}
    place(home / "cifar100", form, files, pack)
    pool = load("cifar_fs", "test", download=False)
    folder = tmp_path / "other" / "cifar100" / "cifar-100-python"
    folder.mkdir(parents=True)
    for part, these in images.items():
        data = these.transpose(0, 3, 1, 2).reshape(100, -1)
        (folder / part).write_bytes(pickle.dumps({"data": data, "fine_labels": list(range(100))}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    expected = load("cifar_fs", "test", root=tmp_path / "other", download=False)
    assert pool.names == expected.names and pool.source == expected.source == "cifar_fs/test"
    assert torch.equal(pool.examples, expected.examples)


def test_half_of_cifar100_is_named(home, pack):
    place(home / "cifar100", "folder", {"train/apple/1.png": pack.png(noise(1, 32)[0])}, pack)
    with pytest.raises(DataError, match="class apple has 1 images instead of 2, and 99 more of 100 classes differ"):
        load("fc100", "train", download=False)
