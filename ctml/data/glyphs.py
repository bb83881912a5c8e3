"""Glyphs: letters of many scripts in the hands of several typefaces, bent and shaken; made on the spot, no download.

Stands in for Omniglot where that is not to be had: white ink on black, `(n, 1, 28, 28)` uint8, 20 drawings a letter,
split by script, so that no script of the test is seen in training. Somewhat easier: on 5-way 1-shot test tasks the
nearest neighbour in raw pixels is right in 59% here and in 43% on Omniglot. Not a published benchmark: no number of a
paper may be compared with results on it.

How it is made: each of the 3,100 letters of the listed scripts is drawn once per face (DejaVu and STIX, which
matplotlib ships). Left out are letters that look like an earlier one (A in Latin, Greek and Cyrillic; accents that
vanish at this size), training scripts first, so that no test letter has a twin in training; about 1,700 remain. Each
drawing then takes a face at random and a random affine and elastic distortion.

The random numbers are the same everywhere; a pixel may differ in its last bits with the version of the font rasteriser.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from ctml.data.cache import decoded, select
from ctml.rng import generator
from ctml.types import ClassPool

# Scripts as the names of their letters begin in Unicode, kin kept on one side: all that is Latin at heart is in train.
LATIN_STYLES = (
    "LATIN", "MATHEMATICAL FRAKTUR", "BLACK-LETTER", "MATHEMATICAL SCRIPT", "SCRIPT", "MATHEMATICAL DOUBLE-STRUCK",
    "DOUBLE-STRUCK",
)  # fmt: skip
SCRIPTS = {
    "train": (*LATIN_STYLES, "ARABIC LETTER", "CANADIAN", "OLD ITALIC", "OGHAM", "LISU"),
    "val": ("GREEK", "GEORGIAN", "COPTIC"),
    "test": ("CYRILLIC", "ARMENIAN", "HEBREW", "TIFINAGH", "LAO", "NKO"),
}
FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Bold",
    "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
)  # fmt: skip

MASTER = 64  # side of an undistorted drawing, pixels; also the size of the face in it
INK = 42  # longer side of a letter in it
LEAST_INK = 20  # a letter whose longer side is less at the face's own size is a dot or a dash, and left out
SOLID = 0.9  # a letter that fills more of its box than this is a blot, and left out
BLUR = 2.0  # pixels, before letters are compared: less than a stroke
SAME = 0.95  # cosine of two blurred letters above which they count as one

ROTATION = 0.2  # radians; every distortion is drawn evenly from minus to plus its bound
SHEAR = 0.2
STRETCH = 0.15  # of the logarithm of width and of height
SHIFT = 0.1  # of half the image
ELASTIC = 0.12  # of half the image, at the knots of a smooth grid
KNOTS = 5
OVERSAMPLING = 2  # the distorted letter is drawn so much larger, then averaged down

Letter = tuple[str, list[UInt8[Tensor, "master master"]]]
"""A letter's Unicode name and its masters, one for each face that has it."""


def load(
    split: str, *, home: Path, download: bool = True, size: int = 28, drawings: int = 20, seed: int = 0
) -> ClassPool:
    """Make one split, or read what was made before.

    Args:
        split: "train", "val" or "test".
        home: data home; the made images are kept in it.
        download: ignored.
        size: side of the images in pixels.
        drawings: drawings of each letter.
        seed: of the distortions.
    """
    if size < 8:
        raise ValueError(f"size={size}: letters need at least 8 pixels")
    if drawings < 1:
        raise ValueError(f"drawings={drawings}: must be at least 1")
    key = [size, drawings, seed, version("matplotlib"), version("pillow")]
    pool = decoded("glyphs", home, key, lambda: _make(size, drawings, seed))
    names = [name for name in pool.names if name.startswith(tuple(f"{script} " for script in SCRIPTS[split]))]
    return select(pool, names, f"glyphs/{split}")


def _make(size: int, drawings: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    for name, masters in _letters():
        stream = generator(seed, f"glyphs/{name}")  # its own, so that a letter more or less changes no other
        face = torch.randint(len(masters), (drawings,), generator=stream)
        images = distort(torch.stack(masters)[face].float() / 255, size, stream)
        yield name, (images * 255).round().to(torch.uint8).numpy()[:, None]


def distort(
    masters: Float[Tensor, "n master master"], size: int, stream: torch.Generator
) -> Float[Tensor, "n size size"]:
    """Apply a random affine map and a random smooth displacement to each drawing.

    A pixel at `p` of the result shows the master at `A p + t + u(p)`, with `u` cubic between random knots.
    """
    n = len(masters)

    def evenly(bound: float, *shape: int) -> Tensor:
        return bound * (2 * torch.rand(n, *shape, generator=stream) - 1)

    angle, shear, stretch = evenly(ROTATION), evenly(SHEAR), evenly(STRETCH, 2).exp()
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    slant = torch.eye(2).repeat(n, 1, 1)
    slant[:, 0, 1] = shear
    affine = torch.cat([rotation @ slant * stretch[:, None], evenly(SHIFT, 2)[..., None]], -1)

    fine = size * OVERSAMPLING
    bend = functional.interpolate(evenly(ELASTIC, 2, KNOTS, KNOTS), (fine, fine), mode="bicubic", align_corners=True)
    grid = functional.affine_grid(affine, [n, 1, fine, fine], align_corners=False) + bend.permute(0, 2, 3, 1)
    drawn = functional.grid_sample(masters[:, None], grid, mode="bilinear", align_corners=False)
    return functional.avg_pool2d(drawn, OVERSAMPLING)[:, 0]


def _letters() -> Iterator[Letter]:
    """Yield the letters that can be told apart, in the order of SCRIPTS and of Unicode, with all their masters."""
    faces = _faces()
    letters = _alphabets(set().union(*(codes for codes, _ in faces)))
    firsts = [(letter, master) for letter in letters if (master := next(_masters(letter, faces), None)) is not None]
    for i in _distinct(torch.stack([master for _, master in firsts])):
        letter = firsts[i][0]
        yield unicodedata.name(letter), list(_masters(letter, faces))


def _faces() -> list[tuple[set[int], object]]:
    """Return (code points, Pillow font) for each face."""
    import matplotlib
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    # Basic layout, because shaping would depend on a library that is not everywhere.
    return [
        (set(FT2Font(path).get_charmap()), ImageFont.truetype(path, MASTER, layout_engine=ImageFont.Layout.BASIC))
        for path in (str(fonts / f"{face}.ttf") for face in FACES)
    ]


def _alphabets(codes: set[int]) -> list[str]:
    """List the letters of all scripts in the order of SCRIPTS; modifier letters are no letters of their own."""
    letters = [chr(code) for code in sorted(codes) if unicodedata.category(chr(code)) in ("Lu", "Ll", "Lt", "Lo")]
    names = [(letter, unicodedata.name(letter, "")) for letter in letters]
    return [
        letter
        for scripts in SCRIPTS.values()
        for script in scripts
        for letter, name in names
        if name.startswith(f"{script} ")
    ]


def _masters(letter: str, faces: Sequence[tuple[set[int], object]]) -> Iterator[Tensor]:
    drawn = (_master(letter, font) for codes, font in faces if ord(letter) in codes)
    return (master for master in drawn if master is not None)


def _master(letter: str, font) -> UInt8[Tensor, "master master"] | None:
    """Draw a letter of a face in the middle of a square, its longer side INK; None for dots, dashes and blots."""
    from PIL import Image

    core = font.getmask(letter, mode="L")
    if not all(core.size):
        return None
    image = Image.frombytes("L", core.size, bytes(core))
    box = image.getbbox()
    if box is None:
        return None
    image = image.crop(box)
    if max(image.size) < LEAST_INK or np.asarray(image).mean() > SOLID * 255:
        return None
    scale = INK / max(image.size)
    image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    square = Image.new("L", (MASTER, MASTER))
    square.paste(image, ((MASTER - image.width) // 2, (MASTER - image.height) // 2))
    return torch.from_numpy(np.array(square))


def _distinct(masters: UInt8[Tensor, "n master master"]) -> list[int]:
    """Return the indices of the letters that look like no earlier one that was kept."""
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(masters.numpy().astype(np.float32), (0, BLUR, BLUR))[:, ::2, ::2]
    blurred = blurred.reshape(len(masters), -1)
    blurred /= np.linalg.norm(blurred, axis=1, keepdims=True)
    likeness = blurred @ blurred.T
    kept: list[int] = []
    for i in range(len(masters)):
        if not kept or likeness[i, kept].max() < SAME:
            kept.append(i)
    return kept
