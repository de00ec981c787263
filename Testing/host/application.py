"""``slicer.app`` and what hangs on it: settings, scene, application logic, module manager, file input and output."""

import colorsys
import os
import re
import tempfile
from pathlib import Path

import slicer
import vtk
from PySide6.QtCore import Property, QObject, QProcessEnvironment, QSettings, Signal
from PySide6.QtGui import QIcon
from PySide6.QtWidgets import QApplication, QMainWindow, QToolBar

from . import pythonqt
from .widgets_ctk import stored
from .widgets_mrml import qMRMLWidget, with_call_data

VERSION = (5, 13, 0)


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


class qSlicerCoreIOManager(QObject):
    """Reading and writing by Slicer's own logics and storage nodes."""

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
            return _load_scene(path)
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


def _load_scene(path):
    scene = slicer.mrmlScene
    if path.endswith(".mrb"):
        return bool(scene.ReadFromMRB(path, True))
    scene.SetURL(path)
    return bool(scene.Connect())


class qMRMLSliceWidget(qMRMLWidget):
    """A slice view's logic and nodes; nothing is drawn."""

    slice_logic = None

    def sliceLogic(self):
        return self.slice_logic

    def mrmlSliceNode(self):
        return self.slice_logic.GetSliceNode()

    def mrmlSliceCompositeNode(self):
        return self.slice_logic.GetSliceCompositeNode()

    def fitSliceToBackground(self):
        self.slice_logic.FitSliceToBackground()


class qSlicerLayoutManager(QObject):
    """Three slice views (logic only) and no 3D view."""

    threeDViewCount = Property(int, lambda self: 0)
    tableViewCount = plotViewCount = threeDViewCount
    layout = stored(int, "layout", 3)

    def __init__(self, application_logic):
        super().__init__()
        self.widgets, self._logics = {}, vtk.vtkCollection()
        application_logic.SetSliceLogics(self._logics)
        for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
            slice_logic = slicer.vtkMRMLSliceLogic()
            slice_logic.SetMRMLApplicationLogic(application_logic)
            slice_logic.SetMRMLScene(slicer.mrmlScene)
            self._logics.AddItem(slice_logic)
            slice_logic.AddSliceNode(name)
            slice_logic.GetSliceNode().SetOrientation(orientation)
            slice_logic.GetSliceNode().SetDimensions(256, 256, 1)
            widget = self.widgets[name] = qMRMLSliceWidget()
            widget.slice_logic = slice_logic

    def sliceViewNames(self):
        return list(self.widgets)

    def sliceWidget(self, name):
        return self.widgets.get(name)

    def mrmlSliceLogics(self):
        return self._logics

    def threeDWidget(self, index):
        return None

    def setLayout(self, layout):
        self.layout = layout

    def resetSliceViews(self):
        for widget in self.widgets.values():
            widget.fitSliceToBackground()

    def resetThreeDViews(self):
        pass


class qSlicerModuleSelectorToolBar(QToolBar):
    selectedModule = stored(str, "selectedModule", "Welcome")

    def selectModule(self, name):
        """Leave the current module's panel and enter the other's."""
        manager = self.parent().application.moduleManager()
        if manager.module(name) is None:
            return
        for module_name, method in ((self.selectedModule, "exit"), (name, "enter")):
            module = manager.module(module_name)
            widget = module.widgetRepresentation() if isinstance(module, qSlicerScriptedLoadableModule) else None
            if widget is not None and widget.isEntered == (method == "exit"):
                getattr(widget, method)()
        self.selectedModule = name


class qSlicerAppMainWindow(QMainWindow):
    def __init__(self, application):
        super().__init__()
        self.application = application
        self.setObjectName("qSlicerMainWindow")
        self._selector = qSlicerModuleSelectorToolBar(self)
        self._selector.setObjectName("ModuleSelectorToolBar")
        self.addToolBar(self._selector)
        self.statusBar()

    def moduleSelector(self):
        return self._selector


class qSlicerApplication(QApplication):
    """``slicer.app``."""

    startupCompleted = Signal()
    mrmlSceneChanged = Signal(object)
    signal_aliases = {"mrmlSceneChanged(vtkMRMLScene*)": ("mrmlSceneChanged(PyObject)", None)}
    majorVersion, minorVersion = (Property(int, lambda self, v=v: v) for v in VERSION[:2])
    mainApplicationMajorVersion, mainApplicationMinorVersion = majorVersion, minorVersion
    mainApplicationName = Property(str, lambda self: "Slicer")
    slicerHome = Property(str, lambda self: self._folder.name)
    documentationBaseUrl = Property(str, lambda self: "https://slicer.readthedocs.io/en/latest/")
    temporaryPath, cachePath, extensionsInstallPath, defaultScenePath, revision = (
        stored(str, n, "")
        for n in ("temporaryPath", "cachePath", "extensionsInstallPath", "defaultScenePath", "revision")
    )

    def __init__(self, testing: bool = True):
        super().__init__(["Slicer"])
        self._folder, self._testing = tempfile.TemporaryDirectory(prefix="slicer-host-"), testing
        self.setOrganizationName("NA-MIC")
        self.setApplicationName("Slicer")
        self.setApplicationVersion(".".join(map(str, VERSION)))
        QSettings.setDefaultFormat(QSettings.IniFormat)
        QSettings.setPath(QSettings.IniFormat, QSettings.UserScope, os.path.join(self._folder.name, "settings"))
        for name in ("temporaryPath", "cachePath", "extensionsInstallPath", "defaultScenePath"):
            path = os.path.join(self._folder.name, name)
            os.makedirs(path)
            setattr(self, name, path)
        self._modules, self._io = qSlicerModuleManager(self), qSlicerCoreIOManager(self)
        self._scene, self._logic, self._layout, self._window = None, None, None, None

    def open_scene(self):
        """The scene, its application logic and the logics of Slicer's own modules."""
        self._scene = slicer.mrmlScene = slicer.vtkMRMLScene()
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetMRMLScene(self._scene)
        self._logic.SetTemporaryPath(self.temporaryPath)
        self._remote = slicer.vtkMRMLRemoteIOLogic()
        self._remote.GetCacheManager().SetRemoteCacheDirectory(self.cachePath)
        self._remote.SetMRMLScene(self._scene)
        self._scene.SetDataIOManager(self._remote.GetDataIOManager())
        vtk.vtkObject.GlobalWarningDisplayOff()  # Slicer's share folder (terminologies, colour files) is not in the wheel
        for name, logic_class in CPP_MODULES.items():
            module = qSlicerLoadableModule(self._modules)
            module.name = module.title = name
            module.module_logic = getattr(slicer, logic_class)()
            module.module_logic.SetMRMLApplicationLogic(self._logic)
            module.module_logic.SetMRMLScene(self._scene)
            self._modules.add(name, module)
            setattr(slicer.modules, name.lower(), pythonqt.proxy_of(module))
            self._logic.SetModuleLogic(name, module.module_logic)
        self._scene.AddNode(_generic_colors())
        for event, action in (
            (self._scene.NodeAddedEvent, _into_subject_hierarchy),
            (self._scene.NodeAboutToBeRemovedEvent, _out_of_subject_hierarchy),
        ):
            self._scene.AddObserver(event, with_call_data(action))
        vtk.vtkObject.GlobalWarningDisplayOn()
        self._layout = qSlicerLayoutManager(self._logic)
        self._layout.setParent(self)
        self._window = qSlicerAppMainWindow(self)

    def mrmlScene(self):
        return self._scene

    def applicationLogic(self):
        return self._logic

    def moduleLogic(self, name):
        return self._modules.module(name).logic()

    def layoutManager(self):
        return self._layout

    def moduleManager(self):
        return self._modules

    def coreIOManager(self):
        return self._io

    ioManager = coreIOManager

    def testingEnabled(self):
        return self._testing

    def settings(self):
        return self.userSettings()

    def userSettings(self):
        return self.__dict__.setdefault("_settings", QSettings())

    def revisionUserSettings(self):
        return self.__dict__.setdefault(
            "_revision_settings",
            QSettings(os.path.join(self._folder.name, "settings", "Slicer-revision.ini"), QSettings.IniFormat),
        )

    def startupEnvironment(self):
        return QProcessEnvironment.systemEnvironment()

    def moduleDocumentationUrl(self, name):
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def pythonConsole(self):
        return None

    def setRenderPaused(self, paused):
        pass

    def pauseRender(self):
        pass

    def resumeRender(self):
        pass


_IN_HIERARCHY = (
    *("vtkMRMLVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLModelNode", "vtkMRMLMarkupsNode"),
    *("vtkMRMLTransformNode", "vtkMRMLTableNode", "vtkMRMLTextNode"),
)


def _into_subject_hierarchy(node):
    """Slicer's subject hierarchy plugins (Qt, not in the wheel) give every data node an item under the scene."""
    if node is None or node.GetHideFromEditors() or node.GetScene().IsImporting():
        return
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if (
        hierarchy is not None
        and any(node.IsA(kind) for kind in _IN_HIERARCHY)
        and not hierarchy.GetItemByDataNode(node)
    ):
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


def _out_of_subject_hierarchy(node):
    if node is None or node.GetScene().IsClosing() or node.IsA("vtkMRMLSubjectHierarchyNode"):
        return
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    if item:
        hierarchy.RemoveItem(item, False, False)


def _generic_colors():
    """Stands for the colour table of that name in Slicer's share folder: a different colour for each label value."""
    table = slicer.vtkMRMLColorTableNode()
    table.SetTypeToUser()
    table.SetSingletonTag("FileGenericColors.txt")
    table.SetName("GenericColors")
    table.HideFromEditorsOn()
    table.SaveWithSceneOff()
    table.SetNumberOfColors(256)
    table.SetColor(0, "background", 0, 0, 0, 0)
    for value in range(1, 256):
        color = colorsys.hsv_to_rgb((value * 0.381966) % 1.0, 0.55, 0.9)
        table.SetColor(value, f"region {value}", *color, 1.0)
    return table


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


CLASSES = {
    c.__name__: c
    for c in list(globals().values())
    if isinstance(c, type) and issubclass(c, QObject) and c.__name__.startswith(("qSlicer", "qMRML"))
}
