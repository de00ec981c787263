"""The stand-in host loads a scripted module as Slicer would: a small one, written here."""

import textwrap

import host
import pytest
import slicer
from host import pythonqt

MODULE = """
import logging
import ctk, qt, vtk
import slicer
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin


class Toy(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Toy")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["Nobody"]
        self.parent.helpText = _("Help")


@parameterNodeWrapper
class ToyParameterNode:
    inputVolume: vtkMRMLScalarVolumeNode
    device: str = "auto"
    invert: bool = False
    label: str


class ToyWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._guiTag = None
        self.applied = 0

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/Toy.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = ToyLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.initializeParameterNode()

    def enter(self):
        self.initializeParameterNode()

    def exit(self):
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._guiTag)
            self._parameterNode = None

    def onSceneStartClose(self, caller, event):
        self.exit()

    def initializeParameterNode(self):
        if self._parameterNode:
            return
        self._parameterNode = self.logic.getParameterNode()
        self._guiTag = self._parameterNode.connectGui(self.ui)
        self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.check)
        self.check()

    def check(self, caller=None, event=None):
        ready = self._parameterNode is not None and self._parameterNode.inputVolume is not None
        self.ui.applyButton.enabled = ready
        self.ui.applyButton.toolTip = _("Compute") if ready else _("Select input")

    def onApply(self):
        with slicer.util.tryWithErrorDisplay(_("Failed"), waitCursor=True):
            self.applied += 1
            if self._parameterNode.device == "none":
                raise ValueError("no such device")


class ToyLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return ToyParameterNode(super().getParameterNode())


class ToyTest(ScriptedLoadableModuleTest):
    def runTest(self):
        self.delayDisplay("hello")
"""

UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Toy</class>
<widget class="qMRMLWidget" name="Toy">
 <layout class="QVBoxLayout" name="all">
  <item><widget class="ctkCollapsibleButton" name="section">
   <property name="text"><string>Inputs</string></property>
   <layout class="QFormLayout" name="form">
    <item row="0" column="0"><widget class="QLabel" name="label"><property name="text"><string>Volume:</string></property></widget></item>
    <item row="0" column="1"><widget class="qMRMLNodeComboBox" name="inputSelector">
      <property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
      <property name="hideChildNodeTypes"><stringlist/></property>
      <property name="addEnabled"><bool>false</bool></property>
      <property name="noneEnabled"><bool>true</bool></property>
      <property name="SlicerParameterName" stdset="0"><string>inputVolume</string></property></widget></item>
    <item row="1" column="1"><widget class="QCheckBox" name="invert">
      <property name="SlicerParameterName" stdset="0"><string>invert</string></property></widget></item>
   </layout></widget></item>
  <item><widget class="QPushButton" name="applyButton"><property name="text"><string>Apply</string></property></widget></item>
 </layout></widget>
<customwidgets>
 <customwidget><class>ctkCollapsibleButton</class><extends>QWidget</extends><header>ctkCollapsibleButton.h</header><container>1</container></customwidget>
 <customwidget><class>qMRMLWidget</class><extends>QWidget</extends><header>qMRMLWidget.h</header><container>1</container></customwidget>
</customwidgets>
<resources/>
<connections>
 <connection><sender>Toy</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal><receiver>inputSelector</receiver>
  <slot>setMRMLScene(vtkMRMLScene*)</slot></connection>
</connections></ui>"""


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("Toy")
    (folder / "Resources/UI").mkdir(parents=True)
    (folder / "Resources/UI/Toy.ui").write_text(textwrap.dedent(UI))
    (folder / "Toy.py").write_text(MODULE)
    return host.load_module(folder / "Toy.py")


@pytest.fixture(autouse=True)
def empty_scene():
    slicer.mrmlScene.Clear(0)
    pythonqt.slot_errors.clear()
    yield
    slicer.mrmlScene.Clear(0)


def test_panel_and_parameters_follow_each_other(panel):
    slicer.mrmlScene.Clear(0)
    slicer.util.selectModule("Toy")
    panel.enter()
    node = panel._parameterNode
    assert (node.device, node.invert, node.label) == ("auto", False, "")
    assert not panel.ui.applyButton.enabled
    import numpy as np

    volume = slicer.util.addVolumeFromArray(np.zeros((3, 4, 5), np.int16))
    panel.ui.inputSelector.setCurrentNode(volume)
    assert node.inputVolume is volume
    assert panel.ui.applyButton.enabled and panel.ui.applyButton.toolTip == "Compute"
    panel.ui.invert.checked = True
    assert node.invert
    node.invert = False
    assert not panel.ui.invert.isChecked()
    other = slicer.util.addVolumeFromArray(np.zeros((3, 4, 5), np.int16))
    slicer.mrmlScene.RemoveNode(volume)
    assert node.inputVolume is other  # a node selector goes on to the next one
    slicer.mrmlScene.RemoveNode(other)
    assert node.inputVolume is None and panel.ui.inputSelector.currentNode() is None
    with pytest.raises(TypeError):
        node.device = 5
    assert not pythonqt.slot_errors


def test_stored_as_slicer_stores(panel):
    slicer.util.selectModule("Toy")
    panel.enter()
    stored = slicer.mrmlScene.GetSingletonNode("Toy", "vtkMRMLScriptedModuleNode")
    assert stored.GetParameter("invert") == "False" and stored.GetParameter("device") == "auto"
    assert stored.GetAttribute("ModuleName") == "Toy"


def test_apply(panel):
    panel.enter()
    panel._parameterNode.inputVolume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "v")
    panel.ui.applyButton.click()
    assert panel.applied >= 1 and not pythonqt.slot_errors
    panel._parameterNode.device = "none"
    panel.ui.applyButton.click()
    assert "no such device" in str(pythonqt.slot_errors)


def test_lookups_and_self_test(panel, tmp_path):
    assert slicer.util.getModuleWidget("Toy") is panel
    assert slicer.util.getModule("Toy").title == "Toy" and slicer.modules.toy.categories == ("Segmentation",)
    assert slicer.util.modulePath("Toy").endswith("Toy.py")
    slicer.selfTests["Toy"]()
    assert host.screenshot(panel.parent, tmp_path / "panel.png").stat().st_size > 1000
    assert panel.parent.width == 400


def test_closing_the_scene_keeps_the_panel_usable(panel):
    panel.enter()
    slicer.mrmlScene.Clear(0)
    panel.enter()
    assert panel._parameterNode.device == "auto"


def test_reload_makes_a_fresh_panel(panel):
    panel.onReload()
    fresh = slicer.util.getModuleWidget("Toy")
    assert fresh is not panel and fresh.parent is panel.parent and fresh.ui.applyButton.text == "Apply"


def test_data_nodes_appear_in_the_subject_hierarchy():
    import numpy as np

    volume = slicer.util.addVolumeFromArray(np.zeros((3, 4, 5)))
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    item = hierarchy.GetItemByDataNode(volume)
    assert item and hierarchy.GetItemParent(item) == hierarchy.GetSceneItemID()
    slicer.mrmlScene.RemoveNode(volume)
    assert not hierarchy.GetItemDataNode(item)


def test_node_selector_adds_filters_and_forgets():
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLSegmentationNode"]
    selector.noneEnabled = True
    assert not selector.enabled
    heard = []
    assert selector.connect("currentNodeChanged(vtkMRMLNode*)", heard.append)
    assert selector.connect("currentNodeChanged(bool)", heard.append)
    assert not selector.connect("currentNodeChanged(int)", heard.append)
    selector.setMRMLScene(slicer.mrmlScene)
    assert selector.enabled and selector.currentNode() is None and selector.nodeCount() == 0
    node = selector.addNode()
    assert selector.currentNode() is node and selector.currentNodeID == node.GetID() and heard == [node, True]
    slicer.mrmlScene.RemoveNode(node)
    assert selector.currentNode() is None and heard[2:] == [None, False]
    selector.delete()
