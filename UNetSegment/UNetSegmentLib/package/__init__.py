"""What a model is: manifest, files and their proof. Reading a package never runs code from it."""

from .manifest import Channel, Inference, Manifest, Normalization
from .package import NETWORKS, Package, cache_folder, installed, load, resource_folders

__all__ = [
    "NETWORKS",
    "Channel",
    "Inference",
    "Manifest",
    "Normalization",
    "Package",
    "cache_folder",
    "installed",
    "load",
    "resource_folders",
]
