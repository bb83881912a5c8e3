"""A download arrives whole or not at all, resumes, tries the next mirror, and says what went wrong in one line."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from ctml.data import DataError
from ctml.data.download import obtain
from ctml.data.registry import Archive, Dataset

BODY = bytes(range(256)) * 4096
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()
TOY = Dataset("toy", "a toy", ("train",), "free", "nobody", "toy")


def get(home, *urls: str, checksum: str | None = MD5, **options):
    return obtain(TOY, Archive("toy.bin", urls, checksum=checksum), home, **options)


def refusal(home, *urls: str, **options) -> str:
    with pytest.raises(DataError) as error:
        get(home, *urls, **options)
    line = str(error.value)
    assert "\n" not in line
    return line


def test_arrives_whole_and_leaves_a_note_of_its_checksum(home, server):
    path = get(home, server.serve("/toy.bin", BODY))
    assert path == home / "toy" / "toy.bin"
    assert path.read_bytes() == BODY
    assert json.loads((home / "toy" / "toy.bin.json").read_text())["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert not (home / "toy" / "toy.bin.part").exists()


def test_goes_on_after_a_broken_connection(home, server):
    url = server.serve("/toy.bin", BODY, cut_after=300_000)
    assert get(home, url).read_bytes() == BODY
    assert server.pages["/toy.bin"].ranges == [None, "bytes=300000-"]


def test_goes_on_from_the_part_of_an_earlier_call(home, server, placed):
    placed("toy/toy.bin.part", BODY[:12345])
    assert get(home, server.serve("/toy.bin", BODY)).read_bytes() == BODY
    assert server.pages["/toy.bin"].ranges == ["bytes=12345-"]


def test_starts_again_where_the_server_knows_no_ranges(home, server, placed):
    placed("toy/toy.bin.part", BODY[:12345])
    assert get(home, server.serve("/toy.bin", BODY, takes_ranges=False)).read_bytes() == BODY


@pytest.mark.parametrize("stale", [b"x" * 1000, b"x" * len(BODY), b"x" * (len(BODY) + 7)])
def test_starts_again_when_the_part_belongs_to_another_file(home, server, placed, stale):
    placed("toy/toy.bin.part", stale)
    assert get(home, server.serve("/toy.bin", BODY)).read_bytes() == BODY


def test_tries_the_mirrors_in_order(home, server):
    dead, good = server.url + "/gone", server.serve("/toy.bin", BODY)
    assert get(home, dead, good).read_bytes() == BODY


def test_without_a_checksum_the_parts_of_two_mirrors_are_never_joined(home, server, monkeypatch):
    monkeypatch.setattr("ctml.data.download.ATTEMPTS", 1)
    breaking, other = server.serve("/breaking", BODY, cut_after=300_000), server.serve("/other", BODY[::-1])
    assert get(home, breaking, other, checksum=None).read_bytes() == BODY[::-1]


def test_says_why_each_mirror_failed_and_where_to_place_the_file(home, server):
    other = server.serve("/other", BODY[::-1])
    line = refusal(home, server.url + "/gone", other, "http://127.0.0.1:9/nobody")
    assert "HTTP 404" in line and "checksum is not the published md5" in line and "127.0.0.1:9/nobody" in line
    assert str(home / "toy" / "toy.bin") in line
    assert list((home / "toy").iterdir()) == []


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_recognises_a_web_page_in_place_of_the_file(home, server, kind):
    url = server.serve("/toy.bin", b"\n<!DOCTYPE html><html>Quota exceeded</html>", kind=kind)
    line = refusal(home, url, checksum=None)
    assert "HTML page" in line and "dead or rate-limited" in line
    assert list((home / "toy").iterdir()) == []


def test_recognises_a_web_page_that_was_placed_by_hand(home, placed):
    path = placed("toy/toy.bin", b"<html><body>Virus scan warning</body></html>")
    line = refusal(home)
    assert str(path) in line and "HTML page" in line


def test_gives_up_a_mirror_that_keeps_breaking_but_keeps_the_part(home, server, monkeypatch):
    monkeypatch.setattr("ctml.data.download.ATTEMPTS", 1)
    url = server.serve("/toy.bin", BODY, cut_after=300_000)
    assert "300,000 bytes are kept" in refusal(home, url)
    assert (home / "toy" / "toy.bin.part").read_bytes() == BODY[:300_000]


def test_without_download_names_the_place(home):
    assert str(home / "toy" / "toy.bin") in refusal(home, "http://127.0.0.1:9/x", download=False)


def test_a_file_that_is_there_is_not_fetched_again(home, placed):
    path = placed("toy/toy.bin", BODY)
    assert get(home, "http://127.0.0.1:9/x") == path


def test_a_read_only_data_folder_is_named(home, server):
    home.mkdir()
    home.chmod(0o555)
    line = refusal(home, server.serve("/toy.bin", BODY))
    assert str(home) in line and "read-only" in line and "CTML_DATA" in line
    assert server.pages["/toy.bin"].ranges == []  # said before anything was transferred


def test_a_data_folder_below_a_file_is_named(home, server, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to the data folder" in refusal(tmp_path / "file" / "data", server.serve("/toy.bin", BODY))


def test_two_at_once_fetch_a_file_once(home, server):
    url = server.serve("/toy.bin", BODY)
    with ThreadPoolExecutor(2) as pool:  # a lock is of one holder, in one process or in two
        paths = list(pool.map(lambda _: get(home, url), range(2)))
    assert paths[0].read_bytes() == BODY and paths[0] == paths[1]
    assert server.pages["/toy.bin"].ranges == [None]
    assert sorted(p.name for p in (home / "toy").iterdir()) == ["toy.bin", "toy.bin.json"]
