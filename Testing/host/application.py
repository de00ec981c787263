"""``slicer.app`` and what hangs on it: settings, scene, application logic, views and main window."""

import colorsys
import os
import tempfile

import slicer
import vtk
from PySide6.QtCore import Property, QObject, QProcessEnvironment, QSettings, Signal
from PySide6.QtWidgets import QApplication, QMainWindow, QToolBar

from . import files, modules, pythonqt
from .files import qSlicerCoreIOManager
from .modules import CPP_MODULES, qSlicerLoadableModule, qSlicerModuleManager, qSlicerScriptedLoadableModule
from .widgets_ctk import stored
from .widgets_mrml import qMRMLWidget, with_call_data

VERSION = (5, 13, 0)


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


CLASSES = {
    c.__name__: c
    for c in [*vars(modules).values(), *vars(files).values(), *globals().values()]
    if isinstance(c, type) and issubclass(c, QObject) and c.__name__.startswith(("qSlicer", "qMRML"))
}
