"""Structures by name, as the application's terminologies list them."""

from __future__ import annotations

from typing import Any, Iterator, Optional

import slicer

LISTS = (
    "Segmentation category and type - 3D Slicer General Anatomy list",
    "Segmentation category and type - DICOM master list",
)
_CATEGORIES = ("123037004", "49755003")  # SNOMED CT: anatomical and morphologically abnormal structures
_NO_REGION = "Anatomic codes - DICOM master list~^^~^^"

Entry = tuple[str, Optional[tuple[float, float, float]]]


def entries(logic: Any) -> dict[str, Entry]:
    """Name -> (serialized terminology entry, recommended color in 0..1 or None), the general list first.

    What has sides is listed once for each, as "left kidney".

    :param logic: vtkSlicerTerminologiesModuleLogic with its lists loaded; those that are not are passed over.
    """
    found: dict[str, Entry] = {}
    for listed in LISTS:
        if not logic.IsTerminologyContextLoaded(listed):
            continue
        for category in _categories(logic, listed):
            for kind in _types(logic, listed, category):
                start = f"{listed}~{_coded(category)}~{_coded(kind)}"
                sides = list(_modifiers(logic, listed, category, kind))
                name = kind.GetCodeMeaning() or ""
                for side in sides:
                    key = f"{side.GetCodeMeaning()} {name}".lower()
                    found.setdefault(key, (f"{start}~{_coded(side)}~{_NO_REGION}", _color(side) or _color(kind)))
                if not sides and name:
                    found.setdefault(name.lower(), (f"{start}~^^~{_NO_REGION}", _color(kind)))
    return found


def _categories(logic: Any, listed: str) -> Iterator[Any]:
    for number in range(logic.GetNumberOfCategoriesInTerminology(listed)):
        category = slicer.vtkSlicerTerminologyCategory()
        if logic.GetNthCategoryInTerminology(listed, number, category) and category.GetCodeValue() in _CATEGORIES:
            yield category


def _types(logic: Any, listed: str, category: Any) -> Iterator[Any]:
    for number in range(logic.GetNumberOfTypesInTerminologyCategory(listed, category)):
        kind = slicer.vtkSlicerTerminologyType()
        if logic.GetNthTypeInTerminologyCategory(listed, category, number, kind):
            yield kind


def _modifiers(logic: Any, listed: str, category: Any, kind: Any) -> Iterator[Any]:
    count = logic.GetNumberOfTypeModifiersInTerminologyType(listed, category, kind) if kind.GetHasModifiers() else 0
    for number in range(count):
        modifier = slicer.vtkSlicerTerminologyType()
        if logic.GetNthTypeModifierInTerminologyType(listed, category, kind, number, modifier):
            yield modifier


def _coded(entry: Any) -> str:
    return f"{entry.GetCodingSchemeDesignator()}^{entry.GetCodeValue()}^{entry.GetCodeMeaning()}"


def _color(kind: Any) -> Optional[tuple[float, float, float]]:
    red, green, blue = kind.GetRecommendedDisplayRGBValue()
    # The gray that a type without a recommended color has is told from one that was meant by nothing.
    return None if (red, green, blue) == (127, 127, 127) else (red / 255, green / 255, blue / 255)
