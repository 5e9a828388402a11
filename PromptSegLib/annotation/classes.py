"""What a class is called, which label value it writes, and how Slicer shows it."""

from __future__ import annotations

import itertools
import unicodedata
from colorsys import hsv_to_rgb
from dataclasses import asdict, dataclass, replace
from typing import Collection, Iterable, Mapping, Optional, Sequence, cast

import numpy as np

from ..errors import PromptSegError

MAX_CLASSES = 255
MAX_VALUE = 65535
_MAX_NAME = 128
_MAX_TERMINOLOGY = 4096


@dataclass(frozen=True)
class ClassInfo:
    """Name, label value, color (RGB, 0..1) and Slicer's terminology entry (serialized, may be empty)."""

    name: str
    value: int
    color: tuple[float, float, float]
    terminology: str = ""

    @classmethod
    def from_dict(cls, values: dict) -> ClassInfo:
        """From a JSON object; raises ``ValueError``, ``KeyError`` or ``TypeError`` for one that describes no class."""
        name, value, terminology = values["name"], values["value"], values.get("terminology", "")
        if not is_name(name):
            raise ValueError("a class name is empty, too long or unprintable")
        if type(value) is not int or not 1 <= value <= MAX_VALUE:
            raise ValueError(f"label value {value!r}")
        if not isinstance(terminology, str) or len(terminology) > _MAX_TERMINOLOGY or not terminology.isprintable():
            raise ValueError("a terminology entry is too long or unprintable")
        red, green, blue = (float(part) for part in values["color"])
        if not all(0 <= part <= 1 for part in (red, green, blue)):  # false for NaN
            raise ValueError("a color is outside 0..1")
        return cls(name, value, (red, green, blue), terminology)

    def to_dict(self) -> dict:
        return asdict(self)


def label_values(infos: Sequence[ClassInfo], chosen: Optional[Collection[str]] = None) -> np.ndarray:
    """Number of a class, from 1 -> its label value, in the smallest type that holds them; 0 for background, and for
    classes that are not among the names ``chosen``."""
    kind = np.uint8 if max(info.value for info in infos) < 256 else np.uint16
    return np.array([0, *(info.value if chosen is None or info.name in chosen else 0 for info in infos)], kind)


def is_name(name: object) -> bool:
    """Whether a class can have this name: text of one line, neither empty nor very long."""
    return isinstance(name, str) and len(name) <= _MAX_NAME and name.isprintable() and bool(canonical_name(name))


# Letters without a mark of their own, beside Unicode's format characters (zero-width, direction, soft hyphen).
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
# Compatibility forms that look like what they stand for; superscripts, fractions and circled digits do not.
_SAME_LOOK = ("<compat>", "<font>", "<noBreak>", "<wide>", "<narrow>", "<isolated>", "<initial>", "<medial>", "<final>")
# Letters of other alphabets, dashes and quotes that a reader takes for the plain ones on their right.
_TWINS = {
    "\u0410\u0412\u0415\u0405\u0406\u0408\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425": "ABESIJKMHOPCTYX",
    "\u0430\u0435\u0455\u0456\u0458\u043e\u0440\u0441\u0443\u0445": "aesijopcyx",  # Cyrillic, as the line before
    "\u04ae\u04af\u04bb\u0501\u051b\u051d\u0475\u03bd\u0261": "Yyhdqwvvg",
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf": "ABEZHIKMNOPTYXo",
    "\u2010\u2013\u2212\u2018\u2019\u02bc\u02b9\u2800": "---'''' ",
    "\u201c\u201d\u2044\u2215": '""//',
}
_PLAIN = {ord(letter): plain for letters, plains in _TWINS.items() for letter, plain in zip(letters, plains)}


def canonical_name(text: str) -> str:
    """What two names that look the same have in common; for comparisons, never to be shown.

    Letters are composed (NFC), blanks of every kind are one blank and none at the ends, what has no mark of its own
    (zero-width characters, selectors, soft hyphens) is left out, and letters that a reader cannot tell from Latin
    ones are these. Upper and lower case stay different, as everywhere in PromptSeg.
    """
    letters = (_looks(letter) for letter in unicodedata.normalize("NFD", text))
    return " ".join(unicodedata.normalize("NFC", "".join(letters).translate(_PLAIN)).split())


def _looks(letter: str) -> str:
    """A letter in the simpler ones that look like it; nothing for one that cannot be seen."""
    if letter.isascii():
        return letter
    if letter in _INVISIBLE or unicodedata.category(letter) == "Cf":
        return ""
    if "VARIATION SELECTOR" in unicodedata.name(letter, ""):
        return ""
    kind, _, codes = unicodedata.decomposition(letter).partition(" ")
    return "".join(chr(int(code, 16)) for code in codes.split()) if kind in _SAME_LOOK else letter


def same_name(one: str, other: str) -> bool:
    """Whether a reader cannot tell two names apart."""
    return canonical_name(one) == canonical_name(other)


def matching_name(name: str, names: Iterable[str]) -> Optional[str]:
    """The one of ``names`` that is ``name``, or else the first that looks the same; None if there is none."""
    names = list(names)
    return name if name in names else next((each for each in names if same_name(each, name)), None)


def check_names(names: Iterable[str], what: str = "classes") -> None:
    """Raise :class:`PromptSegError` if two names look the same; ``what`` they are names of."""
    seen = set()
    for name in names:
        key = canonical_name(name)
        if key in seen:
            raise PromptSegError("Two {what} are called {name}; give each its own name.", what=what, name=name.strip())
        seen.add(key)


# Organ -> (code, meaning, color in 0..255, modifier), SNOMED CT; codes and wording as in Slicer's
# "3D Slicer General Anatomy list" or, for _MASTER_ONLY, its "DICOM master list". Colors are those Slicer
# recommends; for what it gives none: vein, midbrain and salivary gland.
_ANATOMY: dict[str, tuple[str, str, tuple[int, int, int], str]] = {
    "spleen": ("78961009", "Spleen", (157, 108, 162), ""),
    "right kidney": ("64033007", "Kidney", (185, 102, 83), "right"),
    "left kidney": ("64033007", "Kidney", (185, 102, 83), "left"),
    "gallbladder": ("28231008", "Gallbladder", (139, 150, 98), ""),
    "esophagus": ("32849002", "Esophagus", (211, 171, 143), ""),
    "liver": ("10200004", "Liver", (221, 130, 101), ""),
    "stomach": ("69695003", "Stomach", (216, 132, 105), ""),
    "aorta": ("15825003", "Aorta", (224, 97, 76), ""),
    "inferior vena cava": ("64131007", "Inferior vena cava", (0, 151, 206), ""),
    "portal and splenic vein": ("32764006", "Portal vein", (0, 151, 206), ""),
    "pancreas": ("15776009", "Pancreas", (249, 180, 111), ""),
    "right adrenal gland": ("23451007", "Adrenal gland", (249, 186, 150), "right"),
    "left adrenal gland": ("23451007", "Adrenal gland", (249, 186, 150), "left"),
    "brainstem": ("119238007", "Brain stem", (145, 92, 109), ""),
    "spinal cord": ("2748008", "Spinal cord", (244, 214, 49), ""),
    "right parotid gland": ("45289007", "Parotid gland", (70, 163, 117), "right"),
    "left parotid gland": ("45289007", "Parotid gland", (70, 163, 117), "left"),
    "larynx": ("4596009", "Larynx", (150, 208, 243), ""),
    "mandible": ("91609006", "Mandible", (222, 198, 101), ""),
}
_MASTER_ONLY = {"64131007", "32764006", "119238007", "45289007"}
_SIDES = {"right": "SCT^24028007^Right", "left": "SCT^7771000^Left", "": "^^"}

# Distinct on CT and to color-blind readers (Okabe and Ito, 2008), for names that are not in the table.
_PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def is_one_body(name: str) -> bool:
    """Whether a class of this name is an organ that is known to be in one piece: any of those with a coded entry."""
    return _key(name) in _ANATOMY


def known_names() -> tuple[str, ...]:
    """Names that have a coded entry."""
    return tuple(_ANATOMY)


def _key(name: str) -> str:
    return canonical_name(name).lower().replace("_", " ").replace("oesophagus", "esophagus")


def describe(name: str, value: int, taken: Sequence[ClassInfo] = (), color: Optional[Sequence[float]] = None):
    """A :class:`ClassInfo` for a name: known organs get Slicer's coded entry and color, others a distinct color."""
    entry = _ANATOMY.get(_key(name))
    if entry:
        code, meaning, rgb, side = entry
        category = "SCT^123037004^Anatomical Structure"
        # Context~category~type~type modifier~anatomic context~region~region modifier
        context = "DICOM master list" if code in _MASTER_ONLY else "3D Slicer General Anatomy list"
        terminology = (
            f"Segmentation category and type - {context}"
            f"~{category}~SCT^{code}^{meaning}~{_SIDES[side]}~Anatomic codes - DICOM master list~^^~^^"
        )
    else:
        used = [tuple(round(255 * part) for part in info.color) for info in taken]
        free = [rgb for rgb in _PALETTE if rgb not in used]
        rgb, terminology = free[0] if free else _further_color(used), ""
    chosen = tuple(color) if color is not None else tuple(part / 255 for part in rgb)
    return ClassInfo(name, value, cast(tuple[float, float, float], chosen), terminology)


def _further_color(used: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
    """Of colors that are neither gray nor dark, the one that differs most from all that are ``used`` (0..255)."""
    shades = itertools.product(range(36), (0.45, 0.7, 1.0), (1.0, 0.75, 0.55))
    rgb = np.rint([np.multiply(255, hsv_to_rgb(hue / 36, depth, light)) for hue, depth, light in shades]).astype(int)
    apart = ((rgb[:, None] - np.array(used)) ** 2).sum(-1).min(1)
    red, green, blue = rgb[apart.argmax()].tolist()
    return red, green, blue


def class_infos(
    classes: Mapping[str, int], chosen: Mapping[str, ClassInfo], before: Sequence[ClassInfo] = ()
) -> list[ClassInfo]:
    """How each class (name -> value) is shown: as the user has ``chosen``, as it was ``before``, or as its name
    suggests."""
    known = {info.name: info for info in before}
    taken = [*before, *chosen.values()]  # also those of classes whose turn comes later
    infos: list[ClassInfo] = []
    for name, value in classes.items():
        info = chosen.get(name) or known.get(name) or describe(name, value, [*taken, *infos])
        infos.append(replace(info, name=name, value=value))
    return infos
