"""Finished runs on disk: whole or not there, and damage is noticed."""

import pickle
from pathlib import Path

import pytest

from ctml.companion.files import write_atomically
from ctml.companion.runs.cache import Cache


def test_what_is_stored_comes_back_and_the_checkpoint_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    checkpoint = cache.checkpoint("ab12")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("half way")
    cache.store("ab12", pickle.dumps({"x": 1}))
    assert cache.load("ab12") == {"x": 1}
    assert not checkpoint.parent.exists()


def test_nothing_stored_is_none(tmp_path: Path) -> None:
    assert Cache(tmp_path).load("ab12") is None


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:10], lambda b: b"", lambda b: b[:40] + b"!" + b[41:]]
)
def test_a_damaged_entry_counts_as_none_with_a_warning(damage, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.store("ab12", pickle.dumps({"x": list(range(100))}))
    path = cache.path("ab12")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"ab12\.run is damaged .* computed again"):
        assert cache.load("ab12") is None
    assert not path.exists()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
