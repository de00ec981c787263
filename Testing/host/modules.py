"""Slicer's modules: scripted ones, and those written in C++ of which the host has the logic; and their manager."""

import slicer
from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QIcon

from . import pythonqt
from .widgets_ctk import stored


class qSlicerScriptedLoadableModule(QObject):
    """What a scripted module's class receives as ``parent``."""

    title, helpText, acknowledgementText = (stored(str, n, "") for n in ("title", "helpText", "acknowledgementText"))
    categories, dependencies, contributors, associatedNodeTypes = (
        stored("QStringList", n, []) for n in ("categories", "dependencies", "contributors", "associatedNodeTypes")
    )
    path, name = stored(str, "path", ""), stored(str, "name", "")
    icon, hidden, index = stored(QIcon, "icon", QIcon()), stored(bool, "hidden", False), stored(int, "index", -1)
    python_class = stored(object, "python_class", None)
    _representation = None

    def widgetRepresentation(self):
        if self._representation is None:
            from . import scripted

            self._representation = pythonqt.unwrap(scripted.build_widget(pythonqt.proxy_of(self)))
        return self._representation

    def createNewWidgetRepresentation(self):
        from . import scripted

        return pythonqt.unwrap(scripted.build_widget(pythonqt.proxy_of(self)))

    def logic(self):
        return self.__dict__.setdefault("_logic", slicer.vtkSlicerScriptedLoadableModuleLogic())


class qSlicerLoadableModule(QObject):
    """A module written in C++, of which the host has the logic only."""

    name, title, path = stored(str, "name", ""), stored(str, "title", ""), stored(str, "path", "")
    module_logic = None

    def logic(self):
        return self.module_logic

    def widgetRepresentation(self):
        return None


class qSlicerModuleFactoryManager(QObject):
    def loadedModuleNames(self):
        return list(self.parent().modules)

    def isLoaded(self, name):
        return name in self.parent().modules


class qSlicerModuleManager(QObject):
    moduleLoaded = Signal(str)
    moduleAboutToBeUnloaded = Signal(str)
    signal_aliases = {f"{s}(QString)": (f"{s}(QString)", None) for s in ("moduleLoaded", "moduleAboutToBeUnloaded")}

    def __init__(self, parent=None):
        super().__init__(parent)
        self.modules = {}
        self._factory = qSlicerModuleFactoryManager(self)

    def factoryManager(self):
        return self._factory

    def module(self, name):
        return self.modules.get(name)

    def modulesNames(self):
        return list(self.modules)

    def add(self, name, module):
        self.modules[name] = module
        self.moduleLoaded.emit(name)


CPP_MODULES = {
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Colors": "vtkSlicerColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Models": "vtkSlicerModelsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Units": "vtkSlicerUnitsLogic",
}


def logic(name: str):
    """The logic of one of Slicer's own modules."""
    return getattr(slicer.modules, name).logic()
