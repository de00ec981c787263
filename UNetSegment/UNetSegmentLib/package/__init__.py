"""What a model is: manifest, files and their proof. Reading a package never runs code from it."""

from .architecture import UNETS, UNetArchitecture
from .manifest import Manifest
from .package import NETWORKS, Package, cache_folder, from_shell, installed, load, resource_folders
from .recipe import Channel, Inference, Normalization, Preprocessing, Resampling

__all__ = [
    "NETWORKS",
    "UNETS",
    "Channel",
    "Inference",
    "Manifest",
    "Normalization",
    "Package",
    "Preprocessing",
    "Resampling",
    "UNetArchitecture",
    "cache_folder",
    "from_shell",
    "installed",
    "load",
    "resource_folders",
]
