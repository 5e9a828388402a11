"""What a user can do today with the same scribbles: Grow from seeds, random walker and a random forest.

Both take an image and an annotation on the same grid (0 unknown, every other value a class,
background included) and give a label volume on that grid. Slicer (slicer-core), scikit-image
and scikit-learn are needed only by the function that uses them; none is a dependency of
PromptSeg itself.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from PromptSegLib.errors import PromptSegError
from PromptSegLib.evaluation.labels import check_same_grid, label_array


def grow_from_seeds(image: sitk.Image, annotation: sitk.Image) -> sitk.Image:
    """Slicer's Grow from seeds (Segment Editor), with the effect's default settings.

    The same filter, ``vtkImageGrowCutSegment``, with seed locality 0, run as the effect runs
    it: on the seeds' bounding box grown by 20 % (at least 3 voxels) on each side. What lies
    outside stays 0.

    Method: Zhu et al., "An effective interactive medical image segmentation method using fast
    GrowCut", MICCAI workshop on interactive medical image computing, 2014. Margin: Slicer's
    AbstractScriptedSegmentEditorAutoCompleteEffect.

    :param image: 3D scalar volume.
    :param annotation: 3D integer label volume on the image's grid, at least two values but 0.
    :return: labels of the annotation's values, uint8 or int16.
    :raises PromptSegError: other grids, no 3D volumes, fewer than two values, or a value above 32767.
    :raises ImportError: slicer-core is not installed.
    """
    import slicer
    from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    from vtkmodules.vtkCommonDataModel import vtkImageData

    intensities, seeds = _checked(image, annotation)
    if seeds.max() > np.iinfo(np.int16).max:
        raise PromptSegError("Grow from seeds takes label values up to 32767: use smaller values.")
    seeds = seeds.astype(np.uint8 if seeds.max() <= 255 else np.int16)
    box = _grown_box(seeds > 0, 0.2, 3)

    def as_vtk(array: np.ndarray) -> vtkImageData:
        data = vtkImageData()
        data.SetDimensions(*array.shape[::-1])
        data.SetSpacing(*image.GetSpacing())
        data.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True))
        return data

    grow = slicer.vtkImageGrowCutSegment()
    grow.SetIntensityVolume(as_vtk(intensities[box]))
    grow.SetSeedLabelVolume(as_vtk(seeds[box]))
    grow.SetDistancePenalty(0.0)
    grow.Update()
    labels = np.zeros_like(seeds)
    labels[box] = vtk_to_numpy(grow.GetOutput().GetPointData().GetScalars()).reshape(seeds[box].shape)
    return _as_image(labels, annotation)


def random_walker(
    image: sitk.Image, annotation: sitk.Image, beta: float = 1300.0, most_voxels: int = 300_000
) -> sitk.Image:
    """scikit-image's random walker (conjugate gradients), on a grid that it can solve in seconds to a minute.

    Like Grow from seeds, on the seeds' bounding box grown by 20 %; what lies outside stays 0. Where the box has more
    than ``most_voxels``, it is solved on a coarser grid, whose finest axes are thinned out first, and the
    probabilities are interpolated; what was painted keeps its label. Intensities are scaled to -1..1 between their
    percentiles 0.5 and 99.5 and spacing by its smallest, since scikit-image's weights depend on both.

    Method: Grady, "Random walks for image segmentation", IEEE TPAMI 2006;28(11):1768.

    :param beta: how much a change of intensity stops the walker; ten times scikit-image's default is better here.
    :return: labels of the annotation's values, of its pixel type.
    :raises PromptSegError: other grids, no 3D volumes, or fewer than two values.
    :raises ImportError: scikit-image is not installed.
    """
    from scipy import ndimage
    from skimage.segmentation import random_walker as solve

    intensities, seeds = _checked(image, annotation)
    box = _grown_box(seeds > 0, 0.2, 3)
    low, high = np.percentile(intensities[box], [0.5, 99.5])
    volume = np.clip((intensities[box].astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * 2 - 1
    spacing = np.asarray(image.GetSpacing()[::-1])
    factors = _thinning(volume.shape, spacing, most_voxels)
    values, places = np.unique(seeds[box], return_inverse=True)
    places = places.reshape(volume.shape) + int(values[0] != 0)  # 0 unknown, then 1, 2, ... as the solver wants them
    values = values[values > 0]
    coarse = _block_means(volume, factors)
    few = _thinned(places, factors, coarse.shape)
    kept = [int(each) for each in np.unique(few) if each]
    step = spacing * factors
    probabilities = solve(
        coarse, few, beta=beta, mode="cg_j", tol=1e-3, prob_tol=1.0, spacing=step / step.min(), return_full_prob=True
    )
    best, found = np.full(volume.shape, -1.0, np.float32), np.zeros(volume.shape, seeds.dtype)
    where = [(np.arange(n, dtype=np.float32) + 0.5) / f - 0.5 for n, f in zip(volume.shape, factors)]
    grid = np.meshgrid(*where, indexing="ij") if max(factors) > 1 else None
    for index, each in enumerate(kept):
        share = probabilities[index]
        if grid is not None:
            share = ndimage.map_coordinates(share, grid, order=1, mode="nearest")
        better = share > best
        best[better], found[better] = share[better], values[each - 1]
    labels = np.zeros_like(seeds)
    labels[box] = np.where(seeds[box] > 0, seeds[box], found)
    return _as_image(labels, annotation)


def random_forest(
    image: sitk.Image,
    annotation: sitk.Image,
    trees: int = 100,
    threads: int = 1,
    seed: int = 0,
    coordinates: bool = False,
) -> sitk.Image:
    """Pixel classification as in ilastik or Weka: a random forest on multi-scale filter responses.

    Deterministic for a seed. Without coordinates (as pixel classifiers have it) the forest knows only
    what a voxel's surroundings look like; with them it also learns where the strokes were.

    :param image: 3D scalar volume.
    :param annotation: 3D integer label volume on the image's grid, at least two values but 0.
    :param coordinates: whether the voxel's position (mm) is a feature too.
    :return: labels of the annotation's values, of its pixel type.
    :raises PromptSegError: other grids, no 3D volumes, or fewer than two values.
    :raises ImportError: scikit-learn is not installed.
    """
    from sklearn.ensemble import RandomForestClassifier

    intensities, seeds = _checked(image, annotation)
    spacing = image.GetSpacing()[::-1]
    table = features(intensities, spacing)
    if coordinates:
        places = np.indices(intensities.shape, np.float32).reshape(3, -1) * np.float32(spacing)[:, None]
        table = np.concatenate([table, places.T], 1)
    labels = seeds.ravel()
    forest = RandomForestClassifier(n_estimators=trees, min_samples_leaf=2, n_jobs=threads, random_state=seed)
    forest.fit(table[labels > 0], labels[labels > 0])
    chunk = 1 << 18
    found = np.concatenate([forest.predict(table[start : start + chunk]) for start in range(0, len(table), chunk)])
    return _as_image(found.reshape(seeds.shape).astype(seeds.dtype), annotation)


def features(intensities: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Filter responses per voxel, float32 (voxels, features).

    The intensity; its Gaussian means with sigma 1, 2, 4 and 8 mm; gradient magnitude and
    Laplacian at 1, 2 and 4 mm; the eigenvalues of the structure tensor (gradients at 1 mm,
    averaged over 2 mm). ``intensities`` (z, y, x), ``spacing`` (z, y, x) mm.
    """
    from scipy import ndimage

    volume = intensities.astype(np.float32)
    volume -= volume.mean()
    volume /= volume.std() or 1.0
    step = np.asarray(spacing, float)

    def smooth(array: np.ndarray, sigma: float, order=(0, 0, 0)) -> np.ndarray:
        """Gaussian of ``sigma`` mm, or its derivative per mm; at least 0.3 voxels, as derivatives need."""
        response = ndimage.gaussian_filter(array, np.maximum(sigma / step, 0.3), order, mode="nearest", truncate=3.0)
        return response / np.prod(step ** np.asarray(order), dtype=np.float32)

    def along(axis: int, order: int) -> tuple[int, ...]:
        return tuple(order if other == axis else 0 for other in range(3))

    columns = [volume, *(smooth(volume, sigma) for sigma in (1, 2, 4, 8))]
    for sigma in (1, 2, 4):
        columns.append(np.sqrt(sum(smooth(volume, sigma, along(axis, 1)) ** 2 for axis in range(3))))
        bends = [smooth(volume, sigma, along(axis, 2)) for axis in range(3)]
        columns.append(bends[0] + bends[1] + bends[2])
    slopes = [smooth(volume, 1, along(axis, 1)) for axis in range(3)]
    tensor = np.empty((volume.size, 3, 3), np.float32)
    for row in range(3):
        for column in range(row + 1):
            tensor[:, row, column] = tensor[:, column, row] = smooth(slopes[row] * slopes[column], 2).ravel()
    columns += list(np.linalg.eigvalsh(tensor).T)
    return np.stack([np.asarray(column, np.float32).ravel() for column in columns], 1)


def _checked(image: sitk.Image, annotation: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Intensities and seeds, arrays (z, y, x)."""
    seeds = label_array(annotation, "annotation")
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise PromptSegError("The image is not a 3D volume with one value per voxel: give one.")
    check_same_grid(image, annotation, "annotation", "image")
    if len(np.unique(seeds[seeds > 0])) < 2:
        raise PromptSegError("The annotation has fewer than two label values: paint a class and background.")
    return sitk.GetArrayFromImage(image), seeds


def _grown_box(mask: np.ndarray, ratio: float, least: int) -> tuple[slice, ...]:
    """The bounding box of a mask, each side moved out by ``ratio`` of its extent, within the array."""
    box = []
    for axis, size in enumerate(mask.shape):
        along = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(max(least, ratio * (along[-1] - along[0])))
        box.append(slice(max(0, int(along[0]) - margin), min(size, int(along[-1]) + margin + 1)))
    return tuple(box)


def _thinning(shape: tuple[int, ...], spacing: np.ndarray, most: int) -> np.ndarray:
    """Whole factors per axis by which a grid gets coarser to have at most so many voxels, the finest axis first."""
    factors = np.ones(3, int)
    while np.prod(np.ceil(np.asarray(shape) / factors)) > most:
        factors[np.argmin(spacing * factors)] += 1
    return factors


def _padded(array: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Blocks of the coarser grid: (z, fz, y, fy, x, fx), the last of each axis filled up with its edge."""
    array = np.pad(array, [(0, -n % f) for n, f in zip(array.shape, factors)], mode="edge")
    sides = [side for n, f in zip(array.shape, factors) for side in (n // f, f)]
    return array.reshape(sides)


def _block_means(array: np.ndarray, factors: np.ndarray) -> np.ndarray:
    return _padded(array, factors).mean((1, 3, 5))


def _thinned(places: np.ndarray, factors: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Seeds (0 unknown, 1, ...) on the coarser grid: what most painted voxels of a block say; in a tie, the rarer."""
    counts = np.bincount(places.ravel())
    few, most = np.zeros(shape, int), np.zeros(shape, int)
    for value in np.argsort(-counts[1:], kind="stable") + 1:
        painted = _padded((places == value).astype(np.int32), factors).sum((1, 3, 5))
        wins = (painted > 0) & (painted >= most)
        few[wins], most[wins] = value, painted[wins]
    return few


def _as_image(array: np.ndarray, grid_of: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(grid_of)
    return image
