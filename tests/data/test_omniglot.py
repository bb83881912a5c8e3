"""Omniglot: on a small archive of the same layout, and on the real one where it is at hand."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ctml.data import DataError, load, omniglot

SHARED = Path(__file__).parents[3] / "shared" / "data"
REAL = next((p for p in (Path(os.environ.get("CTML_DATA", SHARED)), SHARED) if (p / "omniglot").is_dir()), None)


def drawings(part: str, alphabets: dict[str, int], pack, first: int = 1, side: int = 105) -> dict[str, bytes]:
    """Files of an archive: black squares on white, their place and size telling character and drawer apart."""
    files, number = {}, first
    for alphabet, n_characters in alphabets.items():
        for character in range(1, n_characters + 1):
            for drawer in range(1, omniglot.DRAWINGS + 1):
                ink = np.ones((side, side), dtype=bool)
                ink[10 + number : 30 + number, 20 : 40 + drawer] = False
                name = f"{part}/{alphabet}/character{character:02d}/{number:04d}_{drawer:02d}.png"
                files[name] = pack.png(ink)
            number += 1
    return files


BACKGROUND = {"Armenian": 2, "Balinese": 3, "Greek": 3}
EVALUATION = {"Angelic": 2, "Tengwar": 3}


@pytest.fixture
def small(placed, pack, monkeypatch):
    """Thirteen characters in the published layout, placed by hand."""
    monkeypatch.setattr(omniglot, "CONTENTS", {"images_background": (3, 8), "images_evaluation": (2, 5)})
    monkeypatch.setattr(omniglot, "N_TRAIN", 9)
    placed("omniglot/images_background.zip", pack.zip(drawings("images_background", BACKGROUND, pack)))
    placed("omniglot/images_evaluation.zip", pack.zip(drawings("images_evaluation", EVALUATION, pack, first=20)))


def test_random_characters_make_disjoint_splits(small):
    train, test = load("omniglot", "train"), load("omniglot", "test")
    assert (train.n_classes, test.n_classes) == (9, 4)
    assert not set(train.names) & set(test.names)
    assert train.counts.unique().tolist() == [20]
    assert train.examples.shape == (180, 1, 28, 28) and train.examples.dtype == torch.uint8
    assert train.source == "omniglot/train"


def test_the_split_seed_decides_the_split(small):
    names = [load("omniglot", "train", split_seed=seed).names for seed in (0, 0, 1, 2)]
    assert names[0] == names[1] and len(set(names)) > 1


def test_validation_comes_out_of_the_training_characters(small):
    whole = set(load("omniglot", "train").names)
    train, val = (set(load("omniglot", split, validation=2).names) for split in ("train", "val"))
    assert train | val == whole and not train & val and len(val) == 2
    with pytest.raises(ValueError, match="give validation=100"):
        load("omniglot", "val")


def test_ink_is_white_and_stays_where_it_was_drawn(small):
    pool = load("omniglot", "train", protocol="lake", size=105)
    first = pool.examples[0, 0]
    assert pool.names[0] == "Armenian/character01"
    assert first[11:31, 20:41].min() == 255 and int(first.sum()) == 255 * 20 * 21
    shrunk = load("omniglot", "train", protocol="lake").examples[0, 0].double()
    rows = torch.arange(28.0).double() @ shrunk.sum(1) / shrunk.sum()
    assert abs(rows - (21 / 105 * 28 - 0.5)) < 0.05  # rows 11..30 have their middle 21 pixels from the top


def test_rotations_are_classes_of_their_own(small):
    plain, turned = load("omniglot", "train"), load("omniglot", "train", rotations=True)
    assert turned.n_classes == 4 * plain.n_classes and len(set(turned.names)) == turned.n_classes
    n = len(plain.examples)
    for k in range(4):
        assert torch.equal(turned.examples[k * n : (k + 1) * n], torch.rot90(plain.examples, k, (-2, -1)))


def test_alphabets_of_the_authors_protocols(small):
    def alphabets(split, protocol):
        return sorted({name.split("/")[0] for name in load("omniglot", split, protocol=protocol).names})

    assert alphabets("train", "lake") == list(BACKGROUND) and alphabets("test", "lake") == list(EVALUATION)
    assert alphabets("train", "minimal1") == ["Balinese", "Greek"]
    assert alphabets("test", "minimal1") == list(EVALUATION)
    assert alphabets("val", "vinyals") == ["Armenian"]
    after_the_ninth = ("Angelic/character02", *(f"Tengwar/character{k:02d}" for k in (1, 2, 3)))
    assert load("omniglot", "test", protocol="vinyals").names == after_the_ninth


def test_the_second_minimal_set_names_its_own_alphabets(small, placed, pack):
    placed(
        "omniglot/images_background_small2.zip", pack.zip(drawings("images_background_small2", {"Armenian": 2}, pack))
    )
    assert load("omniglot", "train", protocol="minimal2").names == ("Armenian/character01", "Armenian/character02")


def test_unpacked_folders_read_like_the_archives(small, home, pack, placed):
    zipped = load("omniglot", "train")
    for part, alphabets, first in (("images_background", BACKGROUND, 1), ("images_evaluation", EVALUATION, 20)):
        (home / "omniglot" / f"{part}.zip").unlink()
        for name, data in drawings(part, alphabets, pack, first).items():
            placed(f"omniglot/{name}", data)
    unpacked = load("omniglot", "train")
    assert unpacked.names == zipped.names and torch.equal(unpacked.examples, zipped.examples)


@pytest.mark.parametrize("protocol", ["finn", "minimal"])
def test_an_unknown_protocol_names_those_there_are(protocol):
    with pytest.raises(ValueError, match="omniglot has: random, vinyals, lake, minimal1, minimal2"):
        load("omniglot", "train", protocol=protocol)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 106}, {"validation": -1}, {"validation": 1200}])
def test_senseless_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        load("omniglot", "train", **options)


def test_a_missing_character_is_noticed(small, placed, pack):
    files = drawings("images_background", {"Armenian": 2, "Balinese": 3, "Greek": 2}, pack)
    path = placed("omniglot/images_background.zip", pack.zip(files))
    with pytest.raises(DataError, match="7 characters of 3 alphabets instead of 8 of 3") as error:
        load("omniglot", "train")
    assert str(path) in str(error.value)


def test_a_missing_drawing_is_noticed(small, placed, pack):
    files = drawings("images_background", BACKGROUND, pack)
    del files["images_background/Greek/character02/0007_05.png"]
    placed("omniglot/images_background.zip", pack.zip(files))
    with pytest.raises(DataError, match="Greek/character02 has 19 drawings instead of 20"):
        load("omniglot", "train")


def test_drawings_of_another_size_are_noticed(small, placed, pack):
    placed("omniglot/images_background.zip", pack.zip(drawings("images_background", BACKGROUND, pack, side=64)))
    with pytest.raises(DataError, match="64x64, not 105x105"):
        load("omniglot", "train")


def test_a_truncated_archive_is_named(small, home):
    path = home / "omniglot" / "images_evaluation.zip"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged or cut off") as error:
        load("omniglot", "train")
    assert str(path) in str(error.value)


needs_omniglot = pytest.mark.skipif(
    REAL is None, reason="no Omniglot in $CTML_DATA/omniglot or ../shared/data/omniglot"
)


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory):
    """The real archives are decoded once for all tests below."""
    return tmp_path_factory.mktemp("cache")


@needs_omniglot
def test_the_real_archives_have_the_published_splits(monkeypatch, real_cache):
    monkeypatch.setenv("XDG_CACHE_HOME", str(real_cache))

    def sizes(protocol, *splits):
        return [load("omniglot", split, root=REAL, protocol=protocol).n_classes for split in splits]

    assert sizes("random", "train", "test") == [1200, 423]
    assert sizes("vinyals", "train", "val", "test") == [1028, 172, 423]
    assert sizes("lake", "train", "test") == [964, 659]
    assert sizes("minimal1", "train", "test") == [136, 659]
    last = load("omniglot", "test", root=REAL, protocol="vinyals").names
    assert last[0] == "Gurmukhi/character42" and last[-1] == "ULOG/character26"  # as in torchmeta's published list


@needs_omniglot
def test_the_real_drawings_are_all_different_and_none_is_blank(monkeypatch, real_cache):
    monkeypatch.setenv("XDG_CACHE_HOME", str(real_cache))
    pool = load("omniglot", "train", root=REAL, protocol="lake")
    flat = pool.examples.flatten(1)
    assert flat.shape == (964 * 20, 784) and pool.counts.unique().tolist() == [20]
    assert flat.max(1).values.min() > 64  # a few characters are single dots
    # The published set itself holds a handful of twins; more would be a mistake of ours.
    assert len(flat) - len(flat.unique(dim=0)) < 20
