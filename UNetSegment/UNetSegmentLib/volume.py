"""Arrays with geometry: :class:`Grid`, :class:`Volume` and :class:`LabelMap`.

One convention holds everywhere in the library: array axes are (i, j, k), as in NIfTI and MONAI, and the affine maps
voxel indices to millimetres in RAS (x to the patient's Right, y to Anterior, z to Superior), as in NIfTI, MONAI and
3D Slicer's scene. SimpleITK and NRRD are LPS with (k, j, i) arrays; they are converted where files are read.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .errors import InputError
from .labels import Label

AXIS_CODES = (("L", "R"), ("P", "A"), ("I", "S"))


def _readonly(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Reorientation:
    """A permutation and flips of array axes: what turns one orientation into another without interpolation.

    Output axis ``a`` is input axis ``axes[a]``, reversed where ``flips[a]``.

    >>> turn = Reorientation((2, 0, 1), (False, True, False))
    >>> turn.inverse().apply(turn.apply(np.arange(24).reshape(2, 3, 4))).shape
    (2, 3, 4)
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A view of an array of shape (..., I, J, K) with its last three axes permuted and flipped."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + axis for axis in self.axes))
        return turned[(..., *(slice(None, None, -1) if flip else slice(None) for flip in self.flips))]

    def inverse(self) -> Reorientation:
        """The way back."""
        axes = tuple(int(axis) for axis in np.argsort(self.axes))
        return Reorientation(axes, tuple(self.flips[axis] for axis in axes))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels are: their number along i, j, k and the affine from index to RAS millimetres.

    Voxel centres sit at integer indices. The affine may be oblique, left-handed and anisotropic; its three columns
    must be orthogonal, as in any scanner image.

    Args:
        shape: Number of voxels along (i, j, k).
        ijk_to_ras: 4x4 matrix in millimetres.

    Raises:
        InputError: The grid has no voxels, a spacing of zero, non-finite numbers, or sheared axes.
    """

    shape: tuple[int, int, int]
    ijk_to_ras: np.ndarray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        matrix = np.array(self.ijk_to_ras, dtype=np.float64)
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"The volume has no voxels (size {' x '.join(map(str, shape))}); choose another volume.")
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise InputError("The volume's position in space is not finite; reload it or correct its geometry.")
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        if (spacing < 1e-9).any():
            raise InputError("The volume has a spacing of zero along an axis; correct it in the Volumes module.")
        cosines = (matrix[:3, :3] / spacing).T @ (matrix[:3, :3] / spacing)
        if np.abs(cosines - np.eye(3)).max() > 1e-2:
            raise InputError(
                "The volume's axes are not at right angles; harden or resample it to a regular grid first."
            )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "ijk_to_ras", _readonly(matrix))

    @classmethod
    def from_spacing(
        cls,
        shape: Sequence[int],
        spacing: Sequence[float],
        origin: Sequence[float] = (0.0, 0.0, 0.0),
        direction: np.ndarray | None = None,
    ) -> Grid:
        """A grid from spacing (mm), the position of voxel (0, 0, 0) in RAS mm, and 3x3 axis directions in columns."""
        matrix = np.eye(4)
        matrix[:3, :3] = (np.eye(3) if direction is None else np.asarray(direction, float)) * np.asarray(spacing, float)
        matrix[:3, 3] = origin
        return cls(tuple(shape), matrix)  # type: ignore[arg-type]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along i, j, k in mm."""
        return tuple(float(s) for s in np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0))  # type: ignore[return-value]

    @property
    def origin(self) -> tuple[float, float, float]:
        """RAS position of the centre of voxel (0, 0, 0) in mm."""
        return tuple(float(x) for x in self.ijk_to_ras[:3, 3])  # type: ignore[return-value]

    @property
    def direction(self) -> np.ndarray:
        """3x3, unit vectors of i, j, k in its columns, in RAS."""
        return self.ijk_to_ras[:3, :3] / np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)

    @property
    def ras_to_ijk(self) -> np.ndarray:
        """4x4 inverse of :attr:`ijk_to_ras`."""
        return np.linalg.inv(self.ijk_to_ras)

    @property
    def is_unset(self) -> bool:
        """Whether this is what files have that lost their header: spacing 1 mm, origin 0, axes as stored (RAS or LPS)."""
        matrix = self.ijk_to_ras
        return bool(np.array_equal(np.abs(matrix), np.eye(4)) and matrix[0, 0] == matrix[1, 1] and matrix[2, 2] == 1)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.ijk_to_ras[:3, :3]))) / 1000.0

    @property
    def _axes(self) -> tuple[list[int], list[bool]]:
        """Per array axis: the patient axis (0 R-L, 1 A-P, 2 S-I) it runs along most, and whether it runs backwards.

        Of the six assignments the one with the greatest sum of |cosine| is taken, so the answer is a permutation for
        every rotation, also near 45 degrees.
        """
        direction = self.direction
        best = max(
            itertools.permutations(range(3)),
            key=lambda p: round(sum(abs(direction[p[a], a]) for a in range(3)), 9),
        )
        return list(best), [bool(direction[best[a], a] < 0) for a in range(3)]

    @property
    def orientation(self) -> str:
        """Closest anatomical axis codes, e.g. ``"RAS"``: each letter is the side towards which that index grows."""
        axes, backwards = self._axes
        return "".join(AXIS_CODES[axis][not back] for axis, back in zip(axes, backwards, strict=True))

    def reorientation_to(self, orientation: str) -> Reorientation:
        """The permutation and flips that bring arrays on this grid to ``orientation`` (codes such as ``"RAS"``)."""
        wanted = [next(a for a, pair in enumerate(AXIS_CODES) if letter in pair) for letter in orientation]
        axes, backwards = self._axes
        source = [axes.index(axis) for axis in wanted]
        flips = [backwards[src] == (letter in "RAS") for src, letter in zip(source, orientation, strict=True)]
        return Reorientation(tuple(source), tuple(flips))  # type: ignore[arg-type]

    def reoriented(self, turn: Reorientation) -> Grid:
        """The grid of an array after ``turn.apply(array)``: the same voxels at the same places."""
        matrix = np.eye(4)
        shape = [self.shape[axis] for axis in turn.axes]
        matrix[:3, :3] = self.ijk_to_ras[:3, list(turn.axes)]
        matrix[:3, 3] = self.ijk_to_ras[:3, 3]
        for axis, flip in enumerate(turn.flips):
            if flip:
                matrix[:3, 3] += matrix[:3, axis] * (shape[axis] - 1)
                matrix[:3, axis] *= -1
        return Grid(tuple(shape), matrix)  # type: ignore[arg-type]

    def with_spacing(self, spacing: Sequence[float]) -> Grid:
        """The grid that covers the same field of view at another spacing, as MONAI's ``Spacing`` lays it out.

        The centre of voxel (0, 0, 0) stays where it is; the size is ``round((n - 1) * old / new + 1)``, so that
        voxel centres span the distance that they spanned. Along an axis where the spacings differ by less than 0.001 mm the
        old one stays: headers hold it in single precision.
        """
        old = np.asarray(self.spacing)
        new = np.where(np.abs(old - spacing) <= 1e-3, old, np.asarray(spacing, float))
        if np.array_equal(old, new):
            return self
        shape = np.round((np.asarray(self.shape) - 1) * old / new + 1).astype(int)
        return Grid.from_spacing(shape, new, self.origin, self.direction)  # type: ignore[arg-type]

    def with_shape(self, shape: Sequence[int]) -> Grid:
        """The grid of another size whose voxels fill the same box: outer edges coincide."""
        matrix = self.ijk_to_ras.copy()
        ratio = np.asarray(self.shape) / np.asarray(shape)
        matrix[:3, :3] *= ratio
        matrix[:3, 3] += self.ijk_to_ras[:3, :3] @ (ratio / 2 - 0.5)
        return Grid(tuple(shape), matrix)  # type: ignore[arg-type]

    def cropped(self, box: Sequence[slice]) -> Grid:
        """The grid of ``array[box]``; the slices have a start and a stop, and no step."""
        matrix = self.ijk_to_ras.copy()
        matrix[:3, 3] += self.ijk_to_ras[:3, :3] @ np.array([cut.start for cut in box], float)
        return Grid(tuple(cut.stop - cut.start for cut in box), matrix)  # type: ignore[arg-type]

    def transformed(self, matrix: np.ndarray) -> Grid:
        """The grid moved by a 4x4 matrix acting on RAS positions (a rigid or similarity transform).

        Raises:
            InputError: The matrix shears the grid, so that its axes are no longer at right angles.
        """
        return Grid(self.shape, np.asarray(matrix, float) @ self.ijk_to_ras)

    def corners(self) -> np.ndarray:
        """(8, 3) RAS positions of the outer corners of the corner voxels, in mm."""
        ends = [(-0.5, n - 0.5) for n in self.shape]
        ijk = np.array(list(itertools.product(*ends)))
        return ijk @ self.ijk_to_ras[:3, :3].T + self.ijk_to_ras[:3, 3]

    def is_close(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Whether both grids have the same size and put every voxel at the same place, within ``tolerance`` mm."""
        return self.shape == other.shape and bool(np.abs(self.corners() - other.corners()).max() <= tolerance)

    def overlaps(self, other: Grid) -> bool:
        """Whether the two boxes share space, tested along the face normals of both (for boxes, nearly exact)."""
        for axes in (self.direction, other.direction):
            mine, theirs = self.corners() @ axes, other.corners() @ axes
            low = np.maximum(mine.min(axis=0), theirs.min(axis=0))
            high = np.minimum(mine.max(axis=0), theirs.max(axis=0))
            if (low >= high).any():
                return False
        return True

    def index_in(self, other: Grid) -> np.ndarray:
        """4x4 matrix from indices of this grid to (fractional) indices of ``other``."""
        return other.ras_to_ijk @ self.ijk_to_ras


@dataclass(frozen=True, eq=False)
class Volume:
    """An image of one or several channels on one grid.

    Args:
        array: Shape (C, I, J, K), any real type. A view will do; nothing here writes to it.
        grid: The grid of every channel.
        channels: One name per channel.

    Raises:
        InputError: The array is not channel-first 3D, or does not fit grid and names.
    """

    array: np.ndarray
    grid: Grid
    channels: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.shape[1:] != self.grid.shape:
            raise InputError(
                f"The image has shape {self.array.shape}, but (channel, i, j, k) on a grid of {self.grid.shape} was expected."
            )
        if len(self.channels) != self.array.shape[0]:
            raise InputError(f"The image has {self.array.shape[0]} channels but {len(self.channels)} names.")

    def reoriented(self, orientation: str) -> tuple[Volume, Reorientation]:
        """This volume (a view) in another orientation, and the turn that brought it there."""
        turn = self.grid.reorientation_to(orientation)
        return Volume(turn.apply(self.array), self.grid.reoriented(turn), self.channels), turn

    @classmethod
    def stack(cls, volumes: Sequence[Volume]) -> Volume:
        """Volumes on one grid as the channels of one.

        Raises:
            InputError: The grids differ.
        """
        first = volumes[0]
        for other in volumes[1:]:
            if not first.grid.is_close(other.grid):
                raise InputError(f"Channel '{other.channels[0]}' is not on the grid of channel '{first.channels[0]}'.")
        if len(volumes) == 1:
            return first
        return cls(
            np.concatenate([v.array for v in volumes]), first.grid, tuple(c for v in volumes for c in v.channels)
        )


@dataclass(frozen=True, eq=False)
class LabelMap:
    """One label value per voxel, and what the values mean.

    Args:
        array: Shape (I, J, K), uint8 or uint16.
        grid: Where the voxels are.
        labels: Meanings, background included or not; values may be sparse.
        metadata: Provenance and other text that travels with the map.
    """

    array: np.ndarray
    grid: Grid
    labels: tuple[Label, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape:
            raise InputError(f"The label map has shape {self.array.shape}, but its grid has {self.grid.shape}.")

    @property
    def segments(self) -> tuple[Label, ...]:
        """The labels that name a structure: all but the background."""
        return tuple(label for label in self.labels if not label.is_background)

    def volumes_ml(self) -> dict[int, float]:
        """Millilitres per label value, background left out, empty structures included as 0."""
        counts = np.bincount(self.array.reshape(-1), minlength=max((x.value for x in self.labels), default=0) + 1)
        return {label.value: float(counts[label.value]) * self.grid.voxel_volume_ml for label in self.segments}


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice overlap of two boolean arrays of one shape, 0 to 1; 1 where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0
