"""``slicer.app.coreIOManager()``: reading and writing by Slicer's own logics and storage nodes."""

import os
import re
from pathlib import Path

import slicer
import vtk
from PySide6.QtCore import QObject

from .modules import logic


class qSlicerCoreIOManager(QObject):
    def fileType(self, filename):
        lower = str(filename).lower()
        if re.search(r"\.seg\.(nrrd|nhdr)$", lower):
            return "SegmentationFile"
        if re.search(r"\.(tfm|h5|mat|txt)$", lower):
            return "TransformFile"
        if re.search(r"\.(mrml|mrb)$", lower):
            return "SceneFile"
        return "VolumeFile"

    def loadNodes(self, file_type, properties, collection=None, messages=None):
        path, name = properties["fileName"], properties.get("name")
        node = None
        if not os.path.exists(path):
            _say(messages, f"File not found: {path}")
            return False
        stem = Path(path).name.removesuffix(".gz").rsplit(".", 1)[0].removesuffix(".seg")
        if file_type == "VolumeFile":
            options = (
                (1 if properties.get("labelmap") else 0)
                | (2 if properties.get("center") else 0)
                | (4 if properties.get("singleFile") else 0)
                | (8 if properties.get("autoWindowLevel", True) else 0)
                | (16 if properties.get("discardOrientation") else 0)
            )
            node = logic("volumes").AddArchetypeVolume(path, name or stem, options)
            if node is not None and properties.get("show", True):
                slicer.util.setSliceViewerLayers(
                    **{"label" if properties.get("labelmap") else "background": node}, fit=True
                )
        elif file_type == "SegmentationFile":
            node = logic("segmentations").LoadSegmentationFromFile(
                path, properties.get("autoOpacities", True), name or stem
            )
        elif file_type == "TransformFile":
            node = logic("transforms").AddTransform(path, slicer.mrmlScene)
        elif file_type == "SceneFile":
            return _load_scene(path, properties.get("clear", False))
        elif file_type == "ModelFile":
            node = logic("models").AddModel(path)
        elif file_type == "ColorTableFile":
            node = logic("colors").LoadColorFile(path, name)
        else:
            raise NotImplementedError(f"the stand-in host does not read a {file_type}")
        if node is None:
            _say(messages, f"Cannot read {path}")
            return False
        if collection is not None:
            collection.AddItem(node)
        return True

    def fileWriterFileType(self, node):
        return node.GetClassName()

    def saveNodes(self, file_type, properties, messages=None):
        path = str(properties["fileName"])
        if file_type == "SceneFile":
            slicer.mrmlScene.SetURL(path)
            if path.endswith(".mrb"):
                return slicer.mrmlScene.WriteToMRB(path)
            return bool(slicer.mrmlScene.Commit(path))
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        storage = node.GetStorageNode() or (node.AddDefaultStorageNode(path) and None) or node.GetStorageNode()
        storage.SetFileName(path)
        return bool(storage.WriteData(node))


def _say(messages, text):
    if messages is not None:
        messages.AddMessage(vtk.vtkCommand.ErrorEvent, text)


def _load_scene(path, clear):
    scene = slicer.mrmlScene
    if path.endswith(".mrb"):
        return bool(scene.ReadFromMRB(path, clear))
    scene.SetURL(path)
    return bool(scene.Connect() if clear else scene.Import())
