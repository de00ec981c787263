"""Volumes and a package in, labels out. The parts (gather, preprocess, tiles, stitch, export, backends) can be swapped."""

from .gather import gather
from .predictor import Prediction, Predictor, Progress, Slab

__all__ = ["Prediction", "Predictor", "Progress", "Slab", "gather"]
