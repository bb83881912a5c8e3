"""The front door: names, splits, options, the decoded cache, and what importing costs."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from ctml.data import DataError, available, data_home, fetch, first_available, load, pool
from ctml.data.cache import decoded, fingerprint, select
from ctml.data.registry import DATASETS


def test_every_dataset_has_a_loader_and_a_registry_entry():
    import importlib

    for name in available():
        assert callable(importlib.import_module(f"ctml.data.{name}").load)
        assert DATASETS[name].licence and DATASETS[name].cite and DATASETS[name].splits


def test_checksums_are_well_formed_and_the_missing_ones_are_said():
    for dataset in DATASETS.values():
        for archive in dataset.archives:
            assert archive.urls and all(url.startswith("https://") for url in archive.urls)
            if archive.checksum is None:
                assert archive.vouched == "no published checksum found"
            else:
                algorithm, value = archive.checksum.split(":")
                assert len(value) == {"md5": 32, "sha256": 64}[algorithm] and int(value, 16)


@pytest.mark.parametrize("name", ["omniglott", "../omniglot", ""])
def test_an_unknown_dataset_names_those_there_are(name):
    with pytest.raises(ValueError, match="is unknown; there are: glyphs, mnist1d, omniglot") as error:
        load(name, "train")
    assert "\n" not in str(error.value)


def test_an_unknown_split_names_those_there_are():
    with pytest.raises(ValueError, match=r"split='dev' is unknown; omniglot has: train, val, test"):
        load("omniglot", "dev")


def test_an_unknown_option_names_those_there_are():
    with pytest.raises(ValueError, match=r"option rotation= is unknown; omniglot takes: protocol, rotations"):
        load("omniglot", "train", rotation=True)


def test_data_home_follows_the_environment(home, monkeypatch, tmp_path):
    assert data_home() == home
    monkeypatch.delenv("CTML_DATA")
    assert data_home() == tmp_path / "cache" / "ctml" / "data"


def test_a_pool_is_of_the_first_dataset_that_can_be_had():
    signals = pool("omniglot or mnist1d", "test", download=False, classes=(6, 9), rotations=True, validation=100)
    assert signals.source == "mnist1d/test" and signals.names == ("6", "9")
    with pytest.raises(DataError, match=r"images_background\.zip.*cifar-100-python\.tar\.gz"):
        pool("omniglot or cifar_fs", "train", download=False)


def test_a_pool_refuses_an_option_that_no_dataset_knows_and_an_unknown_dataset():
    with pytest.raises(ValueError, match=r"option rotation= is unknown to every dataset; there are: at_least"):
        pool("omniglot or glyphs", "train", rotation=True)
    with pytest.raises(ValueError, match=r"dataset='glyph' is unknown; there are"):
        pool("omniglot or glyph", "train")


def test_a_process_keeps_to_its_first_choice(placed, monkeypatch, tmp_path):
    def source(split: str) -> str:
        return pool("omniglot or mnist1d", split, download=False).source

    assert source("train") == "mnist1d/train"
    for name in ("images_background.zip", "images_evaluation.zip"):
        placed(f"omniglot/{name}", b"now it is there")
    assert source("test") == "mnist1d/test"
    assert first_available("omniglot or mnist1d", download=False) == "mnist1d"
    monkeypatch.setenv("CTML_DATA", str(tmp_path / "another home"))
    for name in ("images_background.zip", "images_evaluation.zip"):
        (tmp_path / "another home" / "omniglot").mkdir(parents=True, exist_ok=True)
        (tmp_path / "another home" / "omniglot" / name).write_bytes(b"there from the start")
    with pytest.raises(DataError, match=r"images_background\.zip is damaged"):
        source("test")  # Omniglot was chosen


def test_generated_datasets_have_nothing_to_fetch():
    assert fetch("glyphs") == [] == fetch("mnist1d")


@pytest.fixture
def classes():
    rng = np.random.default_rng(0)
    return [(name, rng.integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)) for name, count in (("b", 3), ("a", 5))]


def test_decoding_happens_once(home, classes):
    calls = []

    def decode():
        calls.append(1)
        return iter(classes)

    first, second = (decoded("toy", home, ["key"], decode) for _ in range(2))
    assert calls == [1]
    assert first.names == second.names == ("b", "a") and second.counts.tolist() == [3, 5]
    assert torch.equal(second.examples, torch.from_numpy(np.concatenate([images for _, images in classes])))
    decoded("toy", home, ["another key"], decode)
    assert calls == [1, 1]


def test_a_cut_cache_file_is_decoded_again(home, classes):
    decoded("toy", home, [], lambda: classes)
    (images,) = (home / ".decoded").glob("*.u8")
    images.write_bytes(images.read_bytes()[:10])
    assert decoded("toy", home, [], lambda: classes).examples.shape == (8, 1, 4, 4)


def test_an_interrupted_decoding_leaves_nothing(home, classes):
    def breaks_off():
        yield classes[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoded("toy", home, [], breaks_off)
    assert list((home / ".decoded").iterdir()) == []


def test_a_read_only_home_decodes_into_the_users_cache_or_into_memory(home, classes, tmp_path):
    home.mkdir()
    home.chmod(0o555)
    assert decoded("toy", home, [], lambda: classes).n_classes == 2
    assert list(home.iterdir()) == []
    assert list((tmp_path / "cache" / "ctml" / ".decoded").glob("toy-*.u8"))
    (tmp_path / "cache" / "ctml" / ".decoded").chmod(0o555)
    in_memory = decoded("toy", home, ["not cached"], lambda: classes)
    assert in_memory.names == ("b", "a") and in_memory.examples.shape == (8, 1, 4, 4)


def test_writing_to_the_examples_does_not_reach_the_cache(home, classes):
    pool = decoded("toy", home, [], lambda: classes)
    before = pool.examples.clone()
    pool.examples.zero_()
    assert torch.equal(decoded("toy", home, [], lambda: classes).examples, before)


def test_select_keeps_the_order_asked_for(home, classes):
    pool = decoded("toy", home, [], lambda: classes)
    chosen = select(pool, ["a", "b"], "toy/train")
    assert chosen.names == ("a", "b") and chosen.counts.tolist() == [5, 3] and chosen.source == "toy/train"
    assert torch.equal(chosen.examples[:5], torch.from_numpy(classes[1][1]))


def test_the_fingerprint_sees_a_changed_file(placed):
    path = placed("x/a.bin", b"1")
    before = fingerprint(path), fingerprint(path.parent)
    path.write_bytes(b"2")
    os.utime(path, ns=(0, 0))
    assert fingerprint(path) != before[0] and fingerprint(path.parent) != before[1]


def test_importing_the_data_layer_loads_nothing_heavy():
    code = "import sys, ctml.data; print([m for m in ('pooch', 'matplotlib', 'PIL', 'scipy') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
