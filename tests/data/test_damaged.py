"""Damaged, foreign and hostile files: each ends as one DataError line that names the file, before memory is taken."""

import io
import pickle
import struct
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctml.data import DataError, cifar100, load, mini_imagenet, omniglot, tiered_imagenet
from ctml.data.cache import decoded
from ctml.data.splits import class_names

GIGABYTE = 1 << 30


def dumped(contents: object) -> bytes:
    return pickle.dumps(contents, protocol=2)


def png(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of few bytes whose head says side x side."""
    data = bytearray(png(105))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def zipped(name: str, data: bytes) -> bytearray:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return bytearray(buffer.getvalue())


def patched(central: int, local: int, form: str, value: int) -> bytes:
    """A zip of one drawing with one field of its two heads changed."""
    data = zipped("images_background/Greek/character01/0001_01.png", png(105))
    struct.pack_into(form, data, local, value)
    struct.pack_into(form, data, data.index(b"PK\x01\x02") + central, value)
    return bytes(data)


def array_pickle(shape: bytes, first: bytes = b"K\x00") -> bytes:
    """A pickle of an array of that shape without its contents; `first` is the shape given to numpy's _reconstruct."""
    head = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + first + b"\x85C\x01b\x87R"
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1K\x00K\x01tR"
    return head + b"(K\x01" + shape + b"\x85" + dtype + b"\x89C\x00tb."


def hex_of_hex(times: int) -> bytes:
    """A pickle of a few hundred bytes whose contents double at every step."""
    return b"\x80\x03" + times * b"c_codecs\nencode\n" + b"C\x10" + 16 * b"a" + times * b"U\x03hex\x86R" + b"."


def nothings(code: bytes) -> bytes:
    """A pickle of 10^13 strings of no letters, which take no bytes."""
    empty = array_pickle(HUGE).replace(b"X\x02\x00\x00\x00u1", b"X\x02\x00\x00\x00" + code)
    return b"\x80\x02}(X\x0e\x00\x00\x00label_specificK\x00X\x12\x00\x00\x00label_specific_str" + empty[2:-1] + b"u."


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 105 105\n%%EndComments\n(x) (w) file\n%%EOF\n"
HUGE = b"\x8a\x06" + (10**13).to_bytes(6, "little")  # a whole number as a pickle writes it


def mini(rows: object = None, **changes) -> bytes:
    names = class_names("mini_imagenet", "test")
    images = np.zeros((3 * len(names), 84, 84, 3), np.uint8)
    contents = {
        "image_data": images,
        "class_dict": {name: [3 * i, 3 * i + 1, 3 * i + 2] for i, name in enumerate(names)},
    }
    if rows is not None:
        contents["class_dict"][names[0]] = rows
    return dumped(contents | changes)


def numbered(labels: object) -> bytes:
    return dumped({"data": np.zeros((60, 84, 84, 3), np.uint8), "labels": labels})


def cifar(**changes) -> bytes:
    return dumped({"data": np.zeros((500, 3072), np.uint8), "fine_labels": list(range(100)) * 5} | changes)


def labels(**changes) -> bytes:
    return dumped({"label_specific": np.array([0, 1, 2]), "label_specific_str": ["a", "b", "c"]} | changes)


BACKGROUND = "omniglot/images_background.zip"
TEST = "mini_imagenet/mini-imagenet-cache-test.pkl"
TRAIN = "cifar100/cifar-100-python/train"
LABELS = "tiered_imagenet/val_labels.pkl"
IMAGES = "tiered_imagenet/val_images_png.pkl"
CIFAR_TAR = "cifar100/cifar-100-python.tar.gz"

CASES = {
    "encrypted zip": (BACKGROUND, patched(8, 6, "<H", 1), "cannot be read"),
    "deflate64": (BACKGROUND, patched(10, 8, "<H", 9), "cannot be read"),
    "unknown compression": (BACKGROUND, patched(10, 8, "<H", 250), "cannot be read"),
    "zip version 9.9": (BACKGROUND, patched(6, 4, "<H", 99), "cannot be read"),
    "zip with a huge member": (BACKGROUND, patched(24, 22, "<I", 4 * GIGABYTE - 2), "no such file has more"),
    "image bomb": (BACKGROUND, bytes(zipped("images_background/Greek/c1/1.png", bomb(60_000))), "3600000000 pixels"),
    "image of another size": (BACKGROUND, bytes(zipped("images_background/Greek/c1/1.png", png(64))), "64x64"),
    "a program as an image": (BACKGROUND, bytes(zipped("images_background/Greek/c1/1.png", EPS)), "cannot be read"),
    "zip of nothing": (BACKGROUND, bytes(zipped("a", b"")[-22:]), "damaged|characters"),
    "sparse zip": (BACKGROUND, 50 * GIGABYTE, "neither zip nor tar"),
    "sparse pickle": (TEST, 50 * GIGABYTE, "no such file has more"),
    "sparse tar": (CIFAR_TAR, 50 * GIGABYTE, "neither zip nor tar"),
    "a list": (TEST, dumped([1, 2]), "a list instead of a dictionary"),
    "a number": (TEST, dumped(1), "a int instead of a dictionary"),
    "no images": (TEST, dumped({"class_dict": {}}), "'image_data' is missing"),
    "images in a list": (TEST, mini(image_data=[1, 2]), "'image_data' is a list"),
    "floats": (TEST, mini(image_data=np.zeros((60, 84, 84, 3), np.float32)), "'image_data' is float32"),
    "other shape": (TEST, mini(image_data=np.zeros((60, 3, 84, 84), np.uint8)), "'image_data' is uint8"),
    "objects": (TEST, mini(image_data=np.array([{}, {}], object)), "damaged or cut off"),
    "row too large": (TEST, mini(rows=[0, 1, 60]), "numbers from 0 to 60 instead of 0 to 59"),
    "negative row": (TEST, mini(rows=[-1, 0, 1]), "numbers from -1"),
    "a row twice": (TEST, mini(rows=[0, 1, 3]), "twice"),
    "rows of text": (TEST, mini(rows=["a", "b", "c"]), "no list of whole numbers"),
    "rows of floats": (TEST, mini(rows=[0.0, 1.0, 2.0]), "no list of whole numbers"),
    "ragged rows": (TEST, mini(rows=[[0], [1, 2]]), "no list of whole numbers|instead of"),
    "rows None": (TEST, mini(class_dict=None), "no dictionary"),
    "class names are numbers": (TEST, mini(class_dict={1: [0]}), "no dictionary"),
    "half the images": (TEST, mini(rows=[0]), "does not hold the 20 official test classes"),
    "labels out of range": (TEST, numbered([100] * 60), "0 to 99"),
    "labels None": (TEST, numbered(None), "no list of whole numbers"),
    "too few labels": (TEST, numbered([0]), "1 numbers instead of 60"),
    "an array of 10^13 bytes": (TEST, array_pickle(HUGE), "damaged or cut off"),
    "an array made too large": (TEST, array_pickle(b"K\x00", first=HUGE), "damaged or cut off"),
    "10^13 bytes announced": (TEST, b"\x80\x04\x8e" + (10**13).to_bytes(8, "little") + b"x.", "asks for"),
    "memo entry 2^32": (TEST, b"\x80\x02}r\xff\xff\xff\xff.", "memo entry 4294967295"),
    "hex of hex of hex": (TEST, hex_of_hex(40), "damaged"),
    "nested to the brim": (TEST, b"\x80\x02" + b"(" * 10_000 + b".", "damaged|instead of"),
    "pop of nothing": (TEST, b"\x80\x02000.", "damaged"),
    "cifar labels": (TRAIN, cifar(fine_labels=[100] * 500), "'fine_labels' has numbers"),
    "cifar labels missing": (TRAIN, dumped({"data": np.zeros((500, 3072), np.uint8)}), "'fine_labels' is missing"),
    "cifar images": (TRAIN, cifar(data=np.zeros((500, 3071), np.uint8)), "'data' is uint8"),
    "half of cifar": (TRAIN, cifar(fine_labels=[0] * 500), "100 classes of 1 to"),
    "cifar is text": (TRAIN, dumped("text"), "a str instead of a dictionary"),
    "tiered labels": (LABELS, labels(label_specific=np.array([0, 1, 3])), "'label_specific' has numbers"),
    "tiered names": (LABELS, labels(label_specific_str=[1, 2, 3]), "no list of names"),
    "tiered names twice": (LABELS, labels(label_specific_str=["a", "a", "b"]), "2 different names of 3"),
    "tiered names, 10^13 of none": (LABELS, nothings(b"U0"), "10000000000000 names instead of 3"),
    "tiered class empty": (LABELS, labels(label_specific=np.array([0, 0, 1])), "without images"),
    "tiered images": (IMAGES, dumped({"a": 1}), "a dict instead of a list"),
    "tiered image": (IMAGES, dumped([1, 2, 3]), "image 0 is no array of bytes"),
    "tiered bomb": (IMAGES, dumped([np.frombuffer(bomb(60_000), np.uint8)] * 3), "60000x60000|3600000000 pixels"),
    "tiered junk": (IMAGES, dumped([np.arange(9, dtype=np.uint8)] * 3), "cannot be read"),
}  # fmt: skip


@pytest.fixture
def intact(placed, monkeypatch):
    """The other files of each dataset, small."""
    monkeypatch.setattr(mini_imagenet, "PER_CLASS", 3)
    monkeypatch.setattr(cifar100, "PER_CLASS", 6)
    monkeypatch.setattr(omniglot, "CONTENTS", {"images_background": (1, 1), "images_evaluation": (1, 1)})
    monkeypatch.setattr(tiered_imagenet, "CONTENTS", {"val": (3, 3)})
    placed("omniglot/images_evaluation.zip", bytes(zipped("images_evaluation/Oriya/character01/1.png", png(105))))
    placed(LABELS, labels())
    placed(IMAGES, dumped([np.frombuffer(png(84), np.uint8)] * 3))
    names = sorted(name for split in ("train", "val", "test") for name in class_names("fc100", split))

    def folder():
        placed(TRAIN, cifar())
        placed("cifar100/cifar-100-python/meta", dumped({"fine_label_names": names}))
        one_each = {"data": np.zeros((100, 3072), np.uint8), "fine_labels": list(range(100))}
        placed("cifar100/cifar-100-python/test", dumped(one_each))

    return folder


@pytest.mark.parametrize("case", CASES)
def test_one_line_names_file_and_fault_before_memory_is_taken(case, intact, placed):
    name, data, message = CASES[case]
    if name == TRAIN:
        intact()
    path = placed(name, data if isinstance(data, bytes) else b"")
    if isinstance(data, int):
        with path.open("r+b") as file:
            file.truncate(data)
    dataset = {"omniglot": "omniglot", "mini_imagenet": "mini_imagenet", "cifar100": "fc100"}.get(name.split("/")[0])
    split = {"omniglot": "train", "fc100": "train", "mini_imagenet": "test"}.get(dataset, "val")
    tracemalloc.start()
    begun = time.perf_counter()
    try:
        with pytest.raises(DataError, match=message) as error:
            load(dataset or "tiered_imagenet", split, download=False)
        assert tracemalloc.get_traced_memory()[1] < GIGABYTE // 8
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - begun < 20
    text = str(error.value)
    assert "\n" not in text and (str(path) in text or str(path.parent) in text) and ";" in text


CACHES = ["{}", "null", "[]", "", "{", "[" * 100_000, '{"shape": "x", "counts": [1], "names": ["a"], "remark": ""}']
CACHES += [
    f'{{"shape": {shape}, "counts": {counts}, "names": {names}, "remark": ""}}'
    for shape, counts, names in (
        ("[3, 1, 4]", "[3]", '["a"]'),
        ("[3, 1, 4, 4]", "[2]", '["a"]'),
        ("[3, 1, 4, 4]", "[3]", '["a", "b"]'),
        ("[3, 1, 4, 4]", "[3]", "[1]"),
        ("[3, 1, 4, 4]", "null", '["a"]'),
        ("[-3, -1, 4, 4]", "[3]", '["a"]'),
        ("[99999999999999999999999]", "[3]", '["a"]'),
        ("[3e0, 1.5, 4, 4]", "[3]", '["a"]'),
    )
]


@pytest.mark.parametrize("text", CACHES)
def test_a_cache_that_is_not_what_it_should_be_is_made_anew(home, text, recwarn):
    images = np.arange(48, dtype=np.uint8).reshape(3, 1, 4, 4)
    decoded("toy", home, [], lambda: [("a", images)])
    (about,) = (home / ".decoded").glob("*.json")
    about.write_text(text)
    for _ in range(2):  # made anew, and then read
        pool = decoded("toy", home, [], lambda: [("a", images)], str)
        assert pool.names == ("a",) and pool.counts.tolist() == [3] and np.array_equal(pool.examples.numpy(), images)
    assert not recwarn.list and about.read_text() != text


@pytest.mark.parametrize("ending", ["json", "u8"])
def test_a_folder_in_the_place_of_a_cache_file_gives_way(home, ending):
    images = np.ones((3, 1, 4, 4), np.uint8)
    decoded("toy", home, [], lambda: [("a", images)])
    (path,) = (home / ".decoded").glob(f"*.{ending}")
    path.unlink()
    (path / "inside").mkdir(parents=True)
    assert decoded("toy", home, [], lambda: [("a", images)]).n_classes == 1
    assert path.is_file()


def test_a_full_disk_decodes_into_memory(home, monkeypatch):
    def full(self: Path, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    pool = decoded("toy", home, [], lambda: [("a", np.ones((3, 1, 4, 4), np.uint8))])
    assert pool.counts.tolist() == [3]
    assert not list((home / ".decoded").glob("*.json")) and not list((home / ".decoded").glob("*.part"))


def test_a_home_with_spaces_quotes_and_letters_of_other_alphabets(tmp_path, monkeypatch):
    monkeypatch.setattr(tiered_imagenet, "CONTENTS", {"val": (3, 3)})
    home = tmp_path / "Daten 'von' \"Jürgen\" $HOME ; ячейка"
    for name, data in ((LABELS, labels()), (IMAGES, dumped([np.frombuffer(png(84), np.uint8)] * 3))):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(data)
    assert load("tiered_imagenet", "val", root=home, download=False).n_classes == 3
    assert list((home / ".decoded").glob("*.u8"))
