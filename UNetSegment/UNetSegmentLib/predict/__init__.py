"""Volumes and a package in, labels out. The parts (gather, preprocess, tiles, stitch, export, backends) can be swapped."""

from typing import TYPE_CHECKING

from ..later import names
from .gather import gather
from .reports import InputWarning, Progress

if TYPE_CHECKING:
    from .predictor import Prediction, Predictor, Slab

__all__ = ["InputWarning", "Prediction", "Predictor", "Progress", "Slab", "gather"]
__getattr__ = names(__name__, predictor=("Prediction", "Predictor", "Slab"))
