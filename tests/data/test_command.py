"""`python -m ctml.data`: one line of summary, or one line of error."""

import hashlib

import pytest

from ctml.data import available, omniglot
from ctml.data.__main__ import main
from ctml.data.registry import DATASETS, Archive, Dataset


def test_without_a_name_lists_what_there_is(home, capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert str(home) in out and all(name in out for name in available())


def test_a_generated_dataset_is_summed_up_in_one_line(capsys):
    assert main(["mnist1d"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "mnist1d/train: 10 classes, 4,000 examples" in line and "mnist1d/test" in line


@pytest.mark.parametrize("name", ["omniglott", "omniglot"])
def test_failure_is_one_line_and_a_code(name, capsys):
    assert main([name, "--no-download"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


def test_fetches_verifies_and_sums_up(home, server, pack, monkeypatch, capsys):
    import numpy as np

    def part(name, alphabet):
        files = {f"{name}/{alphabet}/character01/{i}.png": np.ones((105, 105), bool) for i in range(omniglot.DRAWINGS)}
        return pack.zip({file: pack.png(pixels) for file, pixels in files.items()})

    bodies = [part("images_background", "Greek"), part("images_evaluation", "Angelic")]
    archives = tuple(
        Archive(
            f"images_{name}.zip",
            (server.serve(f"/{name}", body),),
            checksum="md5:" + hashlib.md5(body).hexdigest() if name == "background" else None,
        )
        for name, body in zip(("background", "evaluation"), bodies, strict=True)
    )
    toy = Dataset("omniglot", "small", ("train", "val", "test"), "free", "nobody", "omniglot", archives)
    monkeypatch.setitem(DATASETS, "omniglot", toy)
    monkeypatch.setattr(omniglot, "CONTENTS", {"images_background": (1, 1), "images_evaluation": (1, 1)})
    monkeypatch.setattr(omniglot, "N_TRAIN", 1)
    assert main(["omniglot"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "omniglot/train: 1 classes, 20 examples" in line
    assert f"images_background.zip matches {archives[0].checksum}" in line
    assert f"images_evaluation.zip sha256:{hashlib.sha256(bodies[1]).hexdigest()}" in line
    assert "no published checksum found" in line
