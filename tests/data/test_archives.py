"""Archives are read in place; one that is damaged, or whose members would climb out, is refused by name."""

import pytest

from ctml.data import DataError
from ctml.data.archives import members

FILES = {"a/1.txt": b"one", "a/2.txt": b"two" * 1000, "b/1.txt": b"three"}


def contents(path):
    return {name: read() for name, read in members(path)}


def test_zip_tar_and_folder_read_alike(tmp_path, pack):
    for name, data in FILES.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "x.zip").write_bytes(pack.zip(FILES))
    (tmp_path / "x.tar.gz").write_bytes(pack.tar(FILES))
    assert contents(tmp_path / "folder") == contents(tmp_path / "x.zip") == contents(tmp_path / "x.tar.gz") == FILES


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/etc/evil", "..\\evil.txt", "C:\\evil.txt"])
def test_a_climbing_member_is_refused(tmp_path, pack, name):
    for file, data in (("x.zip", pack.zip({name: b"boo"})), ("x.tar", pack.tar({name: b"boo"}))):
        path = tmp_path / file
        path.write_bytes(data)
        with pytest.raises(DataError, match="leads out of the archive") as error:
            contents(path)
        assert str(path) in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.tar", "x.zip"]


def test_a_link_is_refused(tmp_path, pack):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(pack.tar(FILES, link="/etc/passwd"))
    with pytest.raises(DataError, match="leads out of the archive"):
        contents(path)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_truncated_archive_is_named(tmp_path, pack, kind, keep):
    data = pack.zip(FILES) if kind == "zip" else pack.tar(FILES)
    path = tmp_path / f"x.{kind}"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match="damaged or cut off") as error:
        contents(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_flipped_byte_is_noticed(tmp_path, pack):
    data = bytearray(pack.zip({"a.txt": bytes(range(256)) * 50}))
    data[60] ^= 0xFF
    path = tmp_path / "x.zip"
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        contents(path)
