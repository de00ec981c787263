"""What a benchmark run was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class Skip(Exception):
    """A case cannot run here; the text says why."""


@dataclass(frozen=True)
class Options:
    """Choices of the command line, the same for every case.

    Args:
        nnunet_python: Interpreter with nnU-Net, or None.
        shared: Folder with ``data`` and ``models``.
        threads: Processor threads for every contender.
        device: ``cpu`` or ``cuda``.
        scratch: Folder for inputs, results, logs and caches.
        count: Images of the cases with many.
        repeats: Warm runs of each contender on each image.
        width: Share of the full network's channels (1 is nnU-Net's 32 to 320).
        patch: Edge of the patch in voxels, of the cases that make their network.
        crop: Edge in voxels at 3 mm of the part of the CT that is used, 0 for all of it.
        slices: Slices of the large volume.
    """

    nnunet_python: str | None
    shared: Path
    threads: int
    device: str
    scratch: Path
    count: int = 20
    repeats: int = 2
    width: float = 0.25
    patch: int = 128
    crop: int = 80
    slices: int = 96

    def data(self, *parts: str) -> Path:
        """A file or folder below the shared one.

        Raises:
            Skip: It is not there.
        """
        path = self.shared.joinpath(*parts)
        if not path.exists():
            raise Skip(f"{'/'.join(parts)} is not there; give the folder that holds it with --data")
        return path

    def nnunet(self) -> str:
        """The interpreter with nnU-Net.

        Raises:
            Skip: None was given.
        """
        if self.nnunet_python is None:
            raise Skip("needs the real nnU-Net; give an interpreter that has it with --nnunet-python")
        return self.nnunet_python
