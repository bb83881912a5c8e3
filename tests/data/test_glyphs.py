"""Glyphs: the same letters every time, none blank, none twice, no script on two sides."""

import hashlib
from importlib.metadata import version
from itertools import chain

import pytest
import torch

from ctml.data import glyphs, load
from ctml.rng import generator

RECORD = "4a6b8f0a50908c20"
of_record = version("matplotlib").startswith("3.11.") and version("pillow").startswith("13.")


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """All three splits with few drawings: the letters are what takes the time."""
    root = tmp_path_factory.mktemp("glyphs")
    return {split: load("glyphs", split, root=root, drawings=3) for split in ("train", "val", "test")}


def test_sizes(pools):
    assert pools["train"].n_classes > 1100 and pools["val"].n_classes > 200 and pools["test"].n_classes > 300
    for split, pool in pools.items():
        assert pool.examples.shape == (3 * pool.n_classes, 1, 28, 28) and pool.examples.dtype == torch.uint8
        assert pool.source == f"glyphs/{split}"


def test_every_script_of_a_split_is_there_and_in_no_other(pools):
    names = {split: pool.names for split, pool in pools.items()}
    for split, scripts in glyphs.SCRIPTS.items():
        for script in scripts:
            assert any(name.startswith(script + " ") for name in names[split]), script
    assert sum(len(set(these)) for these in names.values()) == len(set(chain(*names.values())))


def test_no_drawing_is_blank_full_or_cut_by_the_edge(pools):
    for pool in pools.values():
        ink = pool.examples.float().mean((1, 2, 3)) / 255
        assert ink.min() > 0.01 and ink.max() < 0.5
        border = torch.cat([pool.examples[..., [0, -1], :].flatten(1), pool.examples[..., [0, -1]].flatten(1)], 1)
        assert (border > 64).any(1).float().mean() < 0.04


def test_no_two_letters_look_alike_before_they_are_distorted():
    faces = glyphs._faces()
    letters = "AАΑoоοخ"  # Latin, Cyrillic and Greek twins, and a letter of its own
    masters = torch.stack([next(glyphs._masters(letter, faces)) for letter in letters])
    assert [letters[i] for i in glyphs._distinct(masters)] == ["A", "o", "خ"]


def test_a_letter_that_a_face_lacks_is_not_drawn_as_a_box():
    faces = glyphs._faces()
    having = sum(ord("ᐁ") in codes for codes, _ in faces)
    assert 0 < having < len(faces)
    assert len(list(glyphs._masters("ᐁ", faces))) == having
    assert list(glyphs._masters("漢", faces)) == []


def test_dots_and_blots_are_left_out():
    faces = glyphs._faces()
    assert [list(glyphs._masters(mark, faces)) for mark in ".■"] == [[], []]


def test_two_makings_are_equal(pools, tmp_path, monkeypatch):
    monkeypatch.setitem(glyphs.SCRIPTS, "train", ("OGHAM", "LISU"))
    monkeypatch.setitem(glyphs.SCRIPTS, "val", ("COPTIC",))
    monkeypatch.setitem(glyphs.SCRIPTS, "test", ("LAO",))
    first, again = (load("glyphs", "test", root=tmp_path / name) for name in "ab")
    assert first.names == again.names and torch.equal(first.examples, again.examples)
    other = load("glyphs", "test", root=tmp_path / "a", seed=1)
    assert other.names == first.names and not torch.equal(other.examples, first.examples)


@pytest.mark.skipif(not of_record, reason="the letters of record belong to matplotlib 3.11 and Pillow 13")
def test_the_letters_are_those_of_record(pools):
    """The names depend on the fonts and on nothing random: a change here changes every result on glyphs."""
    names = "\n".join(name for pool in pools.values() for name in pool.names)
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == RECORD


def test_without_distortion_a_drawing_is_its_master(monkeypatch):
    for name in ("ROTATION", "SHEAR", "STRETCH", "SHIFT", "ELASTIC"):
        monkeypatch.setattr(glyphs, name, 0.0)
    masters = torch.rand(3, 64, 64)
    drawn = glyphs.distort(masters, 32, generator(0, "test"))
    assert torch.allclose(drawn, torch.nn.functional.avg_pool2d(masters, 2), atol=1e-5)


def test_drawings_of_a_letter_differ_but_keep_together(pools):
    """A nearest-mean classifier on raw pixels does far better than chance and far worse than perfect."""
    pool = pools["test"]
    x = torch.nn.functional.normalize(pool.examples.float().flatten(1), dim=1).view(pool.n_classes, 3, -1)
    assert (x[:, 0] - x[:, 1]).norm(dim=1).min() > 0.05
    right = ((x[:, 2] @ x[:, :2].mean(1).T).argmax(1) == torch.arange(pool.n_classes)).float().mean()
    assert 0.1 < right < 0.9


@pytest.mark.parametrize("options", [{"size": 4}, {"drawings": 0}])
def test_senseless_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        load("glyphs", "train", **options)
