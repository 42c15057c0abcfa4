"""Make `glyphs.npz`, the base bitmaps of `suites/glyphs.py`, from the fonts that matplotlib ships.

    python suites/assets/make_glyphs.py

takes about a minute and prints the SHA-256 that `suites/glyphs.py` holds. Renderers differ between
versions, so the bitmaps are the data and this script says where they came from: matplotlib 3.11.2,
Pillow 13.0.0, fontTools 4.68.0. A second run on the same machine writes the same bytes.

Licences: DejaVu (terms of Bitstream Vera and Arev) may be used, copied and shipped within a larger
package but not sold by itself; STIX is under the SIL Open Font License 1.1, which says the same,
and which leaves free what is made with the font. Both want their notice to travel along: it is in
the file, as `licences`.

Letters: C characters, B bitmaps of all faces, S = 28 pixels a side.
"""

import hashlib
import unicodedata
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
import torch
from fontTools import unicodedata as unicode_scripts
from fontTools.ttLib import TTFont
from numpy.typing import NDArray
from PIL import Image, ImageFont
from torch import Tensor
from torch.nn import functional

Faces = dict[str, NDArray[np.uint8]]  # bitmaps of one character, by font

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
ASSET = Path(__file__).with_name("glyphs.npz")

# The most unlike first, slanted copies last: a character keeps the first few that differ.
FACES = (
    *("DejaVuSans", "DejaVuSerif", "STIXGeneral", "DejaVuSans-Bold", "DejaVuSerif-Italic"),
    *("DejaVuSansMono", "STIXGeneralBolIta", "DejaVuSerif-Bold", "STIXGeneralItalic"),
    *("DejaVuSansMono-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
)
MOST_FACES = 6
SIDE, INK = 28, 20  # pixels; the longer side of the ink leaves about Omniglot's margin
FINE = 8  # oversampling
LEVELS = 15  # ink 0..15; 255 levels would double the file and show nothing more

# Cosine distances between blurred bitmaps, read off contact sheets of pairs in steps of 0.01.
# Mean over the faces that two characters share: below 0.08 most pairs are one shape (c C 0.07,
# D Ð 0.08), above it most are two (δ ð 0.09, n N 0.26). Least over these faces: below 0.04 most
# are one shape in one face (и is an italic u, æ an italic œ), above it most are not (5 S 0.05).
BLUR = 0.7  # pixels
NEAR_MEAN, NEAR_FACE, SAME_FACE = 0.08, 0.04, 0.01
LEAST_SIZE, LEAST_WIDTH, MOST_INK = 0.4, 0.3, 0.72  # no full stops (in em), sticks, solid blocks

# Fields of near-equal cells, dots and strokes that 28 pixels do not tell apart.
POOR_BLOCKS = {
    *("Block Elements", "Box Drawing", "Braille Patterns", "Control Pictures", "Domino Tiles"),
    *("Emoticons", "Enclosed Alphanumerics", "General Punctuation", "Modifier Tone Letters"),
    *("Mathematical Alphanumeric Symbols", "Playing Cards", "Spacing Modifier Letters", "Specials"),
    *("Superscripts and Subscripts", "Tai Xuan Jing Symbols", "Yijing Hexagram Symbols"),
}
CIRCLED_DIGITS = range(0x2776, 0x2794)  # discs, which Unicode does not decompose

# All scripts and blocks not named are for training.
VALIDATION = {"Coptic", "Greek", "Hebrew", "Ogham", "Old Italic"}
TEST = {"Arabic", "Armenian", "Georgian", "Lao", "Nko", "Tifinagh"}


def script_of(character: str) -> str:
    """Its script; its Unicode block where it belongs to no script."""
    name = str(unicode_scripts.script_name(unicode_scripts.script(character)))
    return str(unicode_scripts.block(character)) if name == "Common" else name


def admissible(character: str) -> bool:
    """Whether it is not blank, combining, composed (accented, mathematical) or of a poor block."""
    return (
        unicodedata.category(character)[0] not in "CMZ"
        and not unicodedata.decomposition(character)
        and unicode_scripts.block(character) not in POOR_BLOCKS
        and ord(character) not in CIRCLED_DIGITS
    )


def precedence(character: str) -> tuple[bool, str]:
    """Sorts plain letters before those WITH a stroke or hook: of λ and ƛ, λ stays."""
    return " WITH " in unicodedata.name(character, ""), character


def render(font: ImageFont.FreeTypeFont, character: str) -> NDArray[np.uint8] | None:
    """Ink 0..15 [S, S], centred, as large as `INK` allows; None if too plain to tell apart."""
    # Not `font.getbbox`, which counts the advance as well: small marks would be drawn small.
    box = font.getmask(character, mode="L").getbbox()
    longer = max(box[2] - box[0], box[3] - box[1]) if box else 0
    if longer < LEAST_SIZE * font.size:
        return None
    mask = font.font_variant(size=font.size * INK * FINE / longer).getmask(character, mode="L")
    fine = Image.frombytes("L", mask.size, bytes(mask))
    fine = fine.crop(fine.getbbox())
    narrow = min(fine.size) < LEAST_WIDTH * max(fine.size)
    if narrow or np.asarray(fine).mean() > MOST_INK * 255:
        return None
    paper = Image.new("L", (SIDE * FINE, SIDE * FINE))
    paper.paste(fine, ((paper.width - fine.width) // 2, (paper.height - fine.height) // 2))
    grey = np.asarray(paper.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    return np.rint(grey / 255 * LEVELS).astype(np.uint8)


def features(bitmaps: NDArray[np.uint8]) -> Tensor:
    """Blurred ink, each picture of norm one: [B, S, S]."""
    tap = torch.exp(-(torch.arange(-3.0, 4.0) ** 2) / (2 * BLUR**2))
    ink = torch.from_numpy(bitmaps).float().unsqueeze(1)
    blurred = functional.conv2d(ink, torch.outer(tap, tap)[None, None], padding=3).squeeze(1)
    return functional.normalize(blurred.flatten(1)).view_as(blurred)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Cosine distances [A, B], least over b's quarter turns: a task turns each class by itself."""
    turns = [a.flatten(1) @ b.rot90(turn, (1, 2)).flatten(1).T for turn in range(4)]
    return 1 - torch.stack(turns).amax(0)


def candidates() -> dict[str, Faces]:
    """The admissible characters, in order of precedence, with two to `MOST_FACES` faces each."""
    found: dict[str, Faces] = {}
    for face in FACES:
        path = FONTS / f"{face}.ttf"
        font = ImageFont.truetype(str(path), 100, layout_engine=ImageFont.Layout.BASIC)
        for code, glyph in TTFont(path).getBestCmap().items():
            character = chr(code)
            faces = found.get(character, {})
            # All have DejaVu Sans, so that any two characters share a face to be compared in.
            wanted = len(faces) < MOST_FACES if faces else face == FACES[0]
            if glyph == ".notdef" or not wanted or not admissible(character):
                continue
            if (bitmap := render(font, character)) is None:
                continue
            known = features(np.stack([bitmap, *faces.values()]))
            if not faces or distances(known[:1], known[1:]).min() > SAME_FACE:
                found[character] = {**faces, face: bitmap}
    return {one: found[one] for one in sorted(found, key=precedence) if len(found[one]) > 1}


def distinct(found: dict[str, Faces]) -> list[str]:
    """What is left when those near an earlier one are dropped, over all scripts at once."""
    characters = list(found)
    total, shared = torch.zeros(2, len(characters), len(characters))
    least = torch.ones_like(total)
    for face in FACES:
        rows = torch.tensor([row for row, one in enumerate(characters) if face in found[one]])
        pictures = features(np.stack([found[characters[row]][face] for row in rows]))
        pairs, apart = (rows[:, None], rows), distances(pictures, pictures)
        total[pairs] += apart
        shared[pairs] += 1
        least[pairs] = torch.minimum(least[pairs], apart)
    near = (total / shared < NEAR_MEAN) | (least < NEAR_FACE)
    kept: list[int] = []
    for row in range(len(characters)):
        if not near[row, kept].any():
            kept.append(row)
    return [characters[row] for row in kept]


def main() -> None:
    """Render, select, split and write."""
    found = candidates()
    kept = sorted(distinct(found))
    ink = np.stack([bitmap for one in kept for bitmap in found[one].values()])
    fonts = [FACES.index(face) for one in kept for face in found[one]]
    faces = [len(found[one]) for one in kept]
    scripts = [script_of(one) for one in kept]
    splits = ["validation" if script in VALIDATION else "test" if script in TEST else "train" for script in scripts]
    licences = [(FONTS / f"LICENSE_{font}").read_text("utf-8") for font in ("DEJAVU", "STIX")]
    np.savez_compressed(
        ASSET,
        ink=ink,  # [B, S, S], character by character
        fonts=np.array(fonts, dtype=np.uint8),  # [B], of `font_names`
        font_names=np.array(FACES),
        faces=np.array(faces, dtype=np.uint8),  # [C], how many bitmaps each has
        codepoints=np.array([ord(one) for one in kept], dtype=np.int32),  # [C]
        scripts=np.array(scripts),  # [C]
        splits=np.array(splits),  # [C]
        licences=np.array(licences),
    )
    print(f"{len(found)} candidates, {len(kept)} characters, {len(ink)} bitmaps")
    print(f"splits {dict(Counter(splits))}, faces {dict(Counter(faces))}")
    print(f"scripts {dict(Counter(scripts).most_common())}")
    print(f"{ASSET.stat().st_size} bytes, SHA-256 {hashlib.sha256(ASSET.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
