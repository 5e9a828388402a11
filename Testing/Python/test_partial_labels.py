"""What is known of voxels: strokes, corrections of what was applied, complete slices; on real segmentations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Sequence

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer")

from harness.mrml_fixtures import BACKGROUND_VALUE, add_volume, box_in, paint, put_under
from harness.mrml_volumes import rotation
from harness.scene_files import new_scene
from harness.scene_nodes import image_from_volume, segments_by_name
from harness.tiny_model import CLASSES, painted
from PromptSegLib.annotation.classes import ClassInfo
from PromptSegLib.annotation.partial_labels import (
    BACKGROUND,
    BLANK,
    PartialLabels,
    annotation_of,
    codes_of,
    compose,
    contradicted,
    flat,
    is_class,
    is_not_class,
    on_grid,
    signed,
    stacked,
)
from PromptSegLib.errors import PromptSegError
from PromptSegLib.imaging.geometry import Grid, resample
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.scene import node_references
from PromptSegLib.scene.segment_snapshot import snapshot
from PromptSegLib.scene.segmentations import apply_result

BALL, ROD, NEW = 0, 1, 2
NAMES = {"ball": BALL, "rod": ROD}
MOVED = np.array([[0.0, -1, 0, 12], [1, 0, 0, -40], [0, 0, 1, 7], [0, 0, 0, 1]])


@dataclass
class Place:
    """A volume, a segmentation on it, and the phantom's structures, arrays (z, y, x) of the volume."""

    volume: Any
    segmentation: Any
    labels: np.ndarray
    strokes: np.ndarray

    @property
    def grid(self) -> Grid:
        return Grid.of(image_from_volume(self.volume))

    def known(
        self,
        classes: Optional[dict[str, int]] = None,
        background: tuple[str, ...] = ("background",),
        unpainted: str = "unknown",
        applied: Optional[sitk.Image] = None,
        strokes: Optional[sitk.Image] = None,
        beneath: Sequence[sitk.Image] = (),
    ) -> PartialLabels:
        ids = segments_by_name(self.segmentation)
        numbers = {ids[name]: number for name, number in (classes or NAMES).items() if name in ids}
        others = [ids[name] for name in background if name in ids]
        painting = snapshot(self.segmentation, self.volume, [*numbers, *others])
        return compose(painting, numbers, others, self.grid, unpainted, applied, strokes, beneath)

    def on_volume(self, image: sitk.Image) -> np.ndarray:
        return sitk.GetArrayFromImage(resample(image, self.grid, sitk.sitkNearestNeighbor, 0))

    def codes(self, *arguments, **keywords) -> np.ndarray:
        return self.on_volume(self.known(*arguments, **keywords).codes)

    def apply(self, **masks: np.ndarray) -> tuple[sitk.Image, sitk.Image]:
        """Put results into the segments; the images that a session then remembers."""
        strokes = self.known().strokes
        for name, mask in masks.items():
            paint(self.segmentation, self.volume, mask.astype(np.uint8), {name: 1})
        ids = segments_by_name(self.segmentation)
        held = {ids[name]: NAMES[name] + 1 for name in masks}
        return snapshot(self.segmentation, self.volume, list(held)).labels(held), strokes


def place(direction=None, transforms=(None, None), spacing=(2.0, 2.0, 3.0)) -> Place:
    """Volume and segmentation, each under a transform of its own where one is given."""
    scene = new_scene()
    volume, reference = add_volume(scene, direction=direction, spacing=spacing)
    segmentation = node_references.new_segmentation(scene, volume, "strokes")
    for node, matrix in zip((volume, segmentation), transforms):
        if matrix is not None:
            put_under(scene, node, matrix)
    strokes = sitk.GetArrayFromImage(painted(reference))
    paint(segmentation, volume, strokes, {**CLASSES, "background": BACKGROUND_VALUE})
    return Place(volume, segmentation, sitk.GetArrayFromImage(reference), strokes)


def oblique() -> Place:
    direction = tuple(rotation(20, -35, 50).ravel())
    turned = np.eye(4)
    turned[:3, :3], turned[:3, 3] = rotation(-10, 5, 80), (30, -20, 11)
    return place(direction, (MOVED, turned))


PLACES = {"upright": place, "oblique under transforms": oblique}


@pytest.fixture(params=PLACES.values(), ids=PLACES)
def here(request) -> Place:
    return request.param()


def test_first_strokes(here):
    known = here.known()
    codes = here.on_volume(known.codes)
    expected = np.zeros(codes.shape, np.uint8)
    expected[here.strokes == CLASSES["ball"]] = is_class(BALL)
    expected[here.strokes == CLASSES["rod"]] = is_class(ROD)
    remembered = expected.copy()
    expected[here.strokes == BACKGROUND_VALUE] = BACKGROUND
    assert np.array_equal(codes, expected)
    # Background is in the scene anyway, and may be erased there.
    assert np.array_equal(here.on_volume(known.strokes), remembered)
    assert known.changed == (BALL, ROD)
    assert known.codes.GetPixelID() == sitk.sitkUInt8


def test_without_a_change_after_a_result_nothing_is_new(here):
    applied, strokes = here.apply(ball=here.labels == CLASSES["ball"], rod=here.labels == CLASSES["rod"])
    known = here.known(applied=applied, strokes=strokes)
    assert known.changed == ()
    codes = here.on_volume(known.codes)
    for name, number in NAMES.items():
        assert np.array_equal(codes == is_class(number), here.strokes == CLASSES[name])
    assert not np.isin(codes, [is_not_class(BALL), is_not_class(ROD)]).any()


def test_what_was_added_and_removed_after_a_result(here):
    ball = here.labels == CLASSES["ball"]
    applied, strokes = here.apply(ball=ball, rod=here.labels == CLASSES["rod"])
    erased = box_in(ball & (here.strokes == 0), 3)
    stroke = (here.strokes == CLASSES["ball"]) & (np.arange(len(ball)) == 6)[:, None, None]
    added = np.zeros_like(ball)
    added[15, 20:24, 5:9] = True
    assert erased.any() and stroke.any() and not (added & (here.labels > 0)).any()
    paint(here.segmentation, here.volume, (erased | stroke).astype(np.uint8), {"ball": 1}, "erase")
    paint(here.segmentation, here.volume, added.astype(np.uint8), {"ball": 1}, "add")

    known = here.known(applied=applied, strokes=strokes)
    assert known.changed == (BALL,)
    codes = here.on_volume(known.codes)
    assert (codes[erased] == is_not_class(BALL)).all()
    assert (codes[stroke] == is_not_class(BALL)).all()  # the user takes back what was said before
    assert (codes[added] == is_class(BALL)).all()
    rest = ~(erased | stroke | added)
    assert np.array_equal(codes == is_class(BALL), (here.strokes == CLASSES["ball"]) & rest | added)
    assert np.array_equal(codes == is_not_class(BALL), erased | stroke)
    assert np.array_equal(codes == is_class(ROD), here.strokes == CLASSES["rod"])


def test_corrections_add_up_over_results(here):
    ball = here.labels == CLASSES["ball"]
    paint(here.segmentation, here.volume, np.ones(ball.shape, np.uint8), {"rod": 1}, "erase")
    applied, strokes = here.apply(ball=ball)
    first = box_in(ball, 1)
    paint(here.segmentation, here.volume, first.astype(np.uint8), {"ball": 1}, "erase")
    strokes = here.known(applied=applied, strokes=strokes).strokes
    applied, _ = here.apply(ball=ball & ~first)
    assert here.known(applied=applied, strokes=strokes).changed == ()
    assert (here.codes(applied=applied, strokes=strokes)[first] == is_not_class(BALL)).all()
    # What was erased from one result is painted again on the next one.
    paint(here.segmentation, here.volume, first.astype(np.uint8), {"ball": 1}, "add")
    known = here.known(applied=applied, strokes=strokes)
    assert known.changed == (BALL,)
    assert (here.on_volume(known.codes)[first] == is_class(BALL)).all()
    # And taken away once more, before anything was applied: as if it had not been painted.
    paint(here.segmentation, here.volume, first.astype(np.uint8), {"ball": 1}, "erase")
    assert here.known(applied=applied, strokes=strokes).changed == ()


@pytest.mark.parametrize("order", [("ball", "rod"), ("rod", "ball")])
def test_erased_from_one_and_painted_as_the_other(here, order):
    ball, rod = here.labels == CLASSES["ball"], here.labels == CLASSES["rod"]
    applied, strokes = here.apply(ball=ball, rod=rod)
    moved = box_in(ball & (here.strokes == 0))
    paint(here.segmentation, here.volume, moved.astype(np.uint8), {"rod": 1}, "add")  # takes it from the ball
    known = here.known({name: NAMES[name] for name in order}, applied=applied, strokes=strokes)
    codes = here.on_volume(known.codes)
    assert (codes[moved] == is_class(ROD)).all()
    assert not (codes == is_not_class(BALL)).any() and not (codes == is_not_class(ROD)).any()
    assert sorted(known.changed) == [BALL, ROD]


def test_a_class_that_was_never_applied_has_only_strokes(here):
    ball = here.labels == CLASSES["ball"]
    applied, strokes = here.apply(ball=ball)  # the rod was not part of that result
    known = here.known(applied=applied, strokes=strokes)
    codes = here.on_volume(known.codes)
    assert known.changed == (ROD,)
    assert np.array_equal(codes == is_class(ROD), here.strokes == CLASSES["rod"])

    gone = (here.strokes == CLASSES["rod"]) & (np.arange(len(ball)) == 10)[:, None, None]
    paint(here.segmentation, here.volume, gone.astype(np.uint8), {"rod": 1}, "erase")
    known = here.known(applied=applied, strokes=known.strokes)
    codes = here.on_volume(known.codes)
    assert known.changed == (ROD,)
    assert (codes[gone] == BLANK).all()
    # All of it erased: still a change, and nothing is left of it.
    paint(here.segmentation, here.volume, np.ones(ball.shape, np.uint8), {"rod": 1}, "erase")
    known = here.known(applied=applied, strokes=known.strokes)
    assert known.changed == (ROD,)
    assert not (here.on_volume(known.codes) == is_class(ROD)).any()


def test_a_class_that_is_not_listed_keeps_its_strokes(here):
    """A segment that is locked or ignored meanwhile; its class may come back."""
    applied, strokes = here.apply(ball=here.labels == CLASSES["ball"], rod=here.labels == CLASSES["rod"])
    known = here.known({"ball": BALL}, applied=applied, strokes=strokes)
    assert known.changed == ()
    assert np.array_equal(here.on_volume(known.strokes) == is_class(ROD), here.strokes == CLASSES["rod"])


def test_all_of_an_applied_class_erased(here):
    ball = here.labels == CLASSES["ball"]
    applied, strokes = here.apply(ball=ball)
    for name in ("ball", "rod", "background"):
        paint(here.segmentation, here.volume, np.ones(ball.shape, np.uint8), {name: 1}, "erase")
    known = here.known(applied=applied, strokes=strokes)
    codes = here.on_volume(known.codes)
    assert known.changed == (BALL, ROD)
    assert np.array_equal(codes == is_not_class(BALL), ball)
    assert not np.isin(codes, [is_class(BALL), is_class(ROD), BACKGROUND]).any()


def test_background_segments_win_over_strokes_and_are_read_anew(here):
    over = here.strokes == CLASSES["ball"]
    paint(here.segmentation, here.volume, ((here.strokes == BACKGROUND_VALUE) | over).astype(np.uint8), {"air": 1})
    codes = here.codes(background=("background", "air"))
    assert (codes[over] == BACKGROUND).all()
    paint(here.segmentation, here.volume, np.ones(over.shape, np.uint8), {"air": 1}, "erase")
    codes = here.codes(background=("background", "air"))
    assert (codes[over] == is_class(BALL)).all()


PERMUTATIONS = {
    "as scanned": None,
    "sagittal": (0.0, 0, 1, 1, 0, 0, 0, 1, 0),
    "coronal, mirrored": (1.0, 0, 0, 0, 0, -1, 0, -1, 0),
}


@pytest.mark.parametrize("direction", PERMUTATIONS.values(), ids=PERMUTATIONS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_painted_slices_are_complete_along_the_axis_they_were_painted_on(axis, direction):
    here = place(direction, (MOVED, None))
    chosen = {0: [8, 12], 1: [14], 2: [12, 14, 34]}[axis]
    where = np.zeros(here.labels.shape, bool)
    where[tuple(chosen if each == axis else slice(None) for each in range(3))] = True
    for name, value in {**CLASSES, "background": BACKGROUND_VALUE}.items():
        paint(here.segmentation, here.volume, ((here.labels == value) & where).astype(np.uint8), {name: 1})
    known = here.known(unpainted="slices")
    codes = here.on_volume(known.codes)
    expected = np.where(where, BACKGROUND, BLANK)
    expected[where & (here.labels == CLASSES["ball"])] = is_class(BALL)
    expected[where & (here.labels == CLASSES["rod"])] = is_class(ROD)
    assert np.array_equal(codes, expected)
    # What the choice adds is not remembered: it may be taken back.
    assert not (here.on_volume(known.strokes) == BACKGROUND).any()


def test_slices_with_corrections_are_complete_too(here):
    ball = here.labels == CLASSES["ball"]
    applied, strokes = here.apply(ball=ball, rod=here.labels == CLASSES["rod"])
    erased = ball & (np.arange(len(ball)) == 8)[:, None, None]
    paint(here.segmentation, here.volume, erased.astype(np.uint8), {"ball": 1}, "erase")
    codes = here.codes(unpainted="slices", applied=applied, strokes=strokes)
    complete = np.isin(np.arange(len(ball)), [6, 8, 10, 13])  # three slices with strokes, one with a correction
    assert (codes[~complete] == BLANK).all() and (codes[complete] != BLANK).all()
    assert (codes[8][erased[8]] == BACKGROUND).all()
    assert (codes[10][ball[10]] == is_class(BALL)).all()  # what the segment holds there now is true


def test_a_complete_volume(here):
    ball = here.labels == CLASSES["ball"]
    known = here.known(unpainted="volume")
    codes = here.on_volume(known.codes)
    assert Grid.of(known.codes).same_as(here.grid)
    assert np.array_equal(codes == BACKGROUND, ~np.isin(here.strokes, list(CLASSES.values())))
    applied, strokes = here.apply(ball=ball)
    erased = box_in(ball)
    paint(here.segmentation, here.volume, erased.astype(np.uint8), {"ball": 1}, "erase")
    known = here.known(unpainted="volume", applied=applied, strokes=strokes)
    codes = here.on_volume(known.codes)
    assert np.array_equal(codes == is_class(BALL), ball & ~erased)
    assert (codes[erased] == BACKGROUND).all()
    assert BALL in known.changed and not (here.on_volume(known.strokes) == BACKGROUND).any()


def finer(grid: Grid, shift: float = 0.25, turn: Optional[np.ndarray] = None) -> Grid:
    """A grid with voxels of half the size over the same place; ``shift`` in voxels of the given grid."""
    size = tuple(2 * extent for extent in grid.size)
    spacing = tuple(step / 2 for step in grid.spacing)
    x, y, z = grid.points(np.array([[-shift] * 3]))[0].tolist()
    direction = grid.direction if turn is None else tuple((np.reshape(grid.direction, (3, 3)) @ turn).ravel())
    return Grid(size, spacing, (x, y, z), direction)


def paint_on(here: Place, grid: Grid, name: str, mask: np.ndarray) -> None:
    """Paint on a lattice of its own."""
    ids = segments_by_name(here.segmentation)
    result = Segmentation(grid.image(mask.astype(np.uint8)), (ClassInfo(name, 1, (1.0, 0.5, 0.2)),))
    apply_result(here.segmentation, here.volume, result, segment_ids={name: ids[name]} if name in ids else {})


# A quarter of a voxel: aligned outer faces, as Slicer oversamples. 0: aligned centers, so that every second voxel
# lies right between two of the volume.
@pytest.mark.parametrize("shift", [0.25, 0.0])
def test_strokes_on_a_finer_lattice_stay_as_fine(here, shift):
    grid = finer(here.grid, shift)
    thin = np.zeros(grid.shape, bool)
    thin[20, 25:34, 28] = True  # half a voxel of the volume thick
    paint_on(here, grid, "ball", thin)
    known = here.known()
    codes = sitk.GetArrayFromImage(resample(known.codes, grid, sitk.sitkNearestNeighbor, 0))
    assert np.array_equal(codes == is_class(BALL), thin)
    assert Grid.of(known.codes).spacing == pytest.approx(grid.spacing)
    coarse = here.known(unpainted="volume")
    assert Grid.of(coarse.codes).same_as(here.grid)


@pytest.mark.parametrize("shift", [0.25, 0.0])
def test_a_result_on_the_volumes_lattice_beside_strokes_on_a_finer_one(here, shift):
    """The lattices of strokes and of what was applied differ: that alone is no correction."""
    grid = finer(here.grid, shift)
    background = np.zeros(grid.shape, bool)
    background[4:8, 70:76, 10:60] = True
    paint_on(here, grid, "background", background)
    ball = here.labels == CLASSES["ball"]
    applied, strokes = here.apply(ball=ball, rod=here.labels == CLASSES["rod"])
    for unpainted in ("unknown", "slices", "volume"):
        assert here.known(unpainted=unpainted, applied=applied, strokes=strokes).changed == ()
    erased = box_in(ball & (here.strokes == 0))
    paint(here.segmentation, here.volume, erased.astype(np.uint8), {"ball": 1}, "erase")
    known = here.known(applied=applied, strokes=strokes)
    assert known.changed == (BALL,)
    codes = here.on_volume(known.codes)
    assert np.array_equal(codes == is_not_class(BALL), erased)


def test_a_result_on_a_finer_lattice_is_not_a_correction_of_itself(here):
    """The volume's grid is coarser than the segment: what counts is whether the segment changed."""
    grid = finer(here.grid, turn=rotation(3, 0, 7))
    ball = np.zeros(grid.shape, bool)
    ball[10:21, 20:33, 20:35] = True
    strokes = here.known().strokes
    paint_on(here, grid, "ball", ball)
    ids = segments_by_name(here.segmentation)
    applied = snapshot(here.segmentation, here.volume, [ids["ball"]]).labels({ids["ball"]: BALL + 1})
    for unpainted in ("unknown", "slices", "volume"):
        known = here.known(unpainted=unpainted, applied=applied, strokes=strokes)
        assert BALL not in known.changed
        assert not (sitk.GetArrayFromImage(known.codes) == is_not_class(BALL)).any()


def cropped(image: sitk.Image, margin: int) -> sitk.Image:
    """The part of a label image that is not 0, with a margin of zeros."""
    array = np.pad(sitk.GetArrayFromImage(image), margin)
    grid = Grid.of(image)
    grid = grid.part([-margin] * 3, [extent + margin for extent in grid.size])
    places = np.argwhere(array)
    low, high = places.min(0) - margin, places.max(0) + 1 + margin
    part = array[tuple(slice(max(a, 0), b) for a, b in zip(low, high))]
    low = np.maximum(low, 0)[::-1]
    return grid.part(low.tolist(), (low + part.shape[::-1]).tolist()).image(part)


def test_how_memory_is_cropped_does_not_matter(here):
    ball = here.labels == CLASSES["ball"]
    applied, strokes = here.apply(ball=ball, rod=here.labels == CLASSES["rod"])
    added = np.zeros_like(ball)
    added[18:, 36:, 44:] = True  # up to the corner of the volume, far beyond what was applied
    paint(here.segmentation, here.volume, added.astype(np.uint8), {"ball": 1}, "add")
    paint(here.segmentation, here.volume, box_in(ball).astype(np.uint8), {"ball": 1}, "erase")
    expected = here.known(applied=applied, strokes=strokes)
    for one, other in ((0, 0), (3, 0), (0, 5), (9, 2)):
        known = here.known(applied=cropped(applied, one), strokes=cropped(strokes, other))
        assert known.changed == expected.changed == (BALL,)
        assert np.array_equal(here.on_volume(known.codes), here.on_volume(expected.codes))
        assert np.array_equal(here.on_volume(known.strokes), here.on_volume(expected.strokes))


def test_memory_without_a_voxel_makes_no_large_grid(here):
    """An image that holds nothing may lie anywhere."""
    blank = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    blank.SetOrigin((4000.0, -2000.0, 3000.0))
    known = here.known(applied=blank, strokes=blank)
    assert np.prod(known.codes.GetSize()) <= np.prod(here.grid.size)
    assert np.array_equal(here.on_volume(known.codes), here.codes())
    assert known.changed == (BALL, ROD)


@pytest.mark.parametrize("unpainted", ["unknown", "slices", "volume"])
def test_nothing_painted_is_refused(here, unpainted):
    for name in ("ball", "rod", "background"):
        paint(here.segmentation, here.volume, np.ones(here.labels.shape, np.uint8), {name: 1}, "erase")
    with pytest.raises(PromptSegError, match="Nothing is painted"):
        here.known(unpainted=unpainted)
    blank = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    with pytest.raises(PromptSegError, match="Nothing is painted"):
        here.known(unpainted=unpainted, applied=blank, strokes=blank)


def test_more_classes_than_a_byte_holds():
    here, count = place(), 140
    labels = np.zeros(here.labels.shape, np.uint16)
    labels.reshape(-1)[np.arange(count) * 37] = np.arange(1, count + 1)
    infos = tuple(ClassInfo(f"part {n}", n, (0.5, 0.5, 0.5)) for n in range(1, count + 1))
    apply_result(here.segmentation, here.volume, Segmentation(here.grid.image(labels), infos))
    classes = {info.name: info.value - 1 for info in infos}
    known = here.known(classes)
    assert known.codes.GetPixelID() == sitk.sitkUInt16
    codes = here.on_volume(known.codes)
    painted_here = labels > 0
    # The background segment may lie over a part; everything else is a class.
    free = painted_here & (here.strokes != BACKGROUND_VALUE)
    assert np.array_equal(codes[free], is_class(labels[free].astype(int) - 1))
    assert known.changed == tuple(range(count))

    values = {number: 1000 + number for number in range(count)}
    annotation, background, excluded = annotation_of(known.codes, values)
    array = here.on_volume(annotation)
    assert np.array_equal(array[free], labels[free] + 999)
    assert (array[here.strokes == BACKGROUND_VALUE] == background).all()
    assert sorted(excluded.values()) == sorted(values.values())


def test_codes_as_an_annotation():
    row = [BLANK, BACKGROUND, is_class(0), is_not_class(0), is_class(1), is_not_class(1), is_class(7)]
    codes = Grid((len(row), 1, 1), (2.0, 1.0, 1.0), (5.0, -3.0, 2.0)).image(np.array([[row]], np.uint8))
    annotation, background, excluded = annotation_of(codes, {0: 2, 1: 300}, taken=(1, 3, 5))
    array = sitk.GetArrayFromImage(annotation)[0, 0]
    back = {value: key for key, value in excluded.items()}
    # The class that has no value is unknown: nobody says what it is.
    assert array.tolist() == [0, background, 2, back[2], 300, back[300], 0]
    named = [background, *excluded]
    assert len({*named, 1, 2, 3, 5, 300}) == len(named) + 5 and 0 not in named
    assert Grid.of(annotation) == Grid.of(codes)


def test_an_annotation_of_codes_without_a_class():
    codes = Grid((2, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)).image(np.array([[[BLANK, BACKGROUND]]], np.uint8))
    annotation, background, excluded = annotation_of(codes, {})
    assert sitk.GetArrayFromImage(annotation).ravel().tolist() == [0, background] and not excluded


def test_codes_on_another_grid(here):
    known = here.known()
    codes = on_grid(known.codes, here.grid)
    assert np.array_equal(codes == is_class(BALL), here.strokes == CLASSES["ball"])
    assert np.array_equal(codes == is_class(ROD), here.strokes == CLASSES["rod"])
    beyond = Grid((3, 3, 3), (1.0, 1.0, 1.0), (900.0, 900.0, 900.0))
    assert not on_grid(known.codes, beyond).any()


def test_codes_and_signed_labels_say_the_same():
    labels = np.arange(-4, 4, dtype=np.int16)  # three classes, what is not one of them, unknown and background
    codes = codes_of(labels, 3)
    assert codes[3] == BLANK and codes[4] == BACKGROUND
    assert codes[5:].tolist() == [is_class(0), is_class(1), is_class(2)]
    assert codes[:3].tolist() == [is_not_class(2), is_not_class(1), is_not_class(0)]
    assert np.array_equal(signed(codes), labels) and signed(codes).dtype == np.int16
    assert signed(np.zeros((2, 0), np.uint8)).shape == (2, 0)


def test_label_images_that_lie_under_each_other_as_few():
    above, below = np.zeros((4, 5, 6), np.uint8), np.zeros((4, 5, 6), np.uint16)
    above[1, 1:4, 1:4], below[0:2, 2, 2:6] = 1, 300
    one, other, off = (sitk.GetImageFromArray(each) for each in (above, below[:, 1:], below))
    other.SetOrigin((0.0, 1.0, 0.0))  # on the same lattice; the next is not
    off.SetOrigin((0.5, 0.0, 0.0))
    grid = Grid.of(one)
    top, hidden = stacked([one * 0, one, other])
    assert np.array_equal(on_grid(top, grid), np.where(above > 0, above, below))
    assert np.array_equal(on_grid(hidden, grid), np.where(above > 0, below, 0))
    assert [Grid.of(each) for each in stacked([one, off])] == [grid, Grid.of(off)]
    assert np.array_equal(on_grid(flat([one, other]), grid), on_grid(top, grid))
    assert stacked([one * 0]) == []


def test_what_lies_under_another_class_is_no_correction_of_either(here):
    applied, strokes = here.apply(ball=here.labels == CLASSES["ball"])
    rod = (here.labels == CLASSES["rod"]) | (here.strokes == CLASSES["ball"])
    top, *beneath = stacked([here.apply(rod=rod)[0], applied])
    assert here.known(applied=top, strokes=strokes).changed == (BALL,)  # as it was kept
    known = here.known(applied=top, strokes=strokes, beneath=beneath)
    assert known.changed == () and np.array_equal(here.on_volume(known.strokes), here.on_volume(strokes))
    assert contradicted(known.codes, [top]) and not contradicted(known.codes, [top, *beneath])
