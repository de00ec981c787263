"""Qt and Slicer, name by name, held against what was recorded in a running Slicer 5.13.

The same file runs inside Slicer and on the stand-in host: where it fails on the host alone, the host lies; where it fails
in Slicer too, Slicer has moved on and the recording (slicer_facts.json) wants renewing.
"""

import json
import os
import re
import unittest

import ctk
import qt
import slicer

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "slicer_facts.json"), encoding="utf8") as _file:
    RECORDED = json.load(_file)

QT_MAJOR = int(str(qt.qVersion()).split(".")[0]) if hasattr(qt, "qVersion") else 5
ON_HOST = type(qt).__name__ == "_Qt"

# Expressions whose recorded value belongs to the machine, the desktop or the order in which they were recorded.
NOT_PORTABLE = re.compile(
    r"font|palette|icon|grab|sizeHint|children\(\)|window\(\)|html|Html|checkState\(\)|Path|slicerHome|fileName|extensionsManager"
    r"|commandOptions|segmenteditor|QSoundEffect|QTextCodec|mainWindow|moduleSelector|singleShot$|selectedModule|testingEnabled"
    r"|^blockSignals$|^QStandardItem$|settingsValue"
)
# Removed between Qt 5 and Qt 6; a module that wants to live in both does not use them.
QT5_ONLY = set(
    "margin setMargin tabStopWidth setTabStopWidth autoCompletion autoCompletionCaseSensitivity readFrom writeTo viewOptions "
    "showExtension print del getTextMargins associatedWidgets associatedGraphicsWidgets operator_assign resolveSymlinks "
    "confirmOverwrite nameFilterDetailsVisible isNameFilterDetailsVisible setNameFilterDetailsVisible "
    "setConfirmOverwrite setResolveSymlinks networkAccessible networkSessionConnected configuration "
    "activeConfiguration setNetworkAccessible setConfiguration networkAccessibleChanged grabWidget grabWindow "
    "setupChildProcess iniCodec setIniCodec filterRegExp setFilterRegExp currentThreadId setFirstItemColumnSpanned "
    "isFirstItemColumnSpanned topLevelDomain".split()
)
QT5_ONLY_OF_CLASS = {
    "QFileDialog": {"readOnly", "isReadOnly", "setReadOnly"},
    "QAction": {"parentWidget"},
    "QShortcut": {"parentWidget", "whatsThis"},
    "QSortFilterProxyModel": {"clear"},
}
QT5_ONLY_SIGNALS = {
    "highlighted(QString)",
    "valueChanged(QString)",
    "currentIndexChanged(QString)",
    "activated(QString)",
    "dataChanged(QModelIndex,QModelIndex,QVector<int>)",
    "buttonClicked(int)",
    "buttonPressed(int)",
    "buttonReleased(int)",
    "buttonToggled(int,bool)",
    "networkSessionConnected()",
    "error(QProcess::ProcessError)",
    "networkAccessibleChanged(QNetworkAccessManager::NetworkAccessibility)",
}
# The widgets that module panels of this extension use; of the others the host shows only the Qt part.
PANEL_WIDGETS = ("ctkCollapsibleButton", "ctkSearchBox", "qSlicerWidget")
QT_CLASSES = sorted(n for n in RECORDED["classes"] if n.startswith("Q"))


def setUpModule():
    """Another Slicer than the one that was asked may answer otherwise."""
    here = f"{slicer.app.majorVersion}.{slicer.app.minorVersion}"
    if not ON_HOST and not RECORDED["slicer"].startswith(here + "."):
        raise unittest.SkipTest(f"recorded in Slicer {RECORDED['slicer']}; this is {here}")


def recorded_class(name):
    """callable, properties and signals of a class as recorded."""
    entry = RECORDED["classes"][name]
    base = recorded_class(entry["like"]) if "like" in entry else {}
    result = {}
    for kind in ("callable", "properties", "signals"):
        plus, minus = (entry.get(p + kind, []) for p in ("", "no_"))
        plus, minus = (v.split() if isinstance(v, str) else v for v in (plus, minus))
        result[kind] = (base.get(kind, set()) - set(minus)) | set(plus)
    return result


def find_class(name):
    for module in (slicer, ctk, qt):
        if hasattr(module, name):
            return getattr(module, name)
    raise AssertionError("no class " + name)


def make(name, parent):
    cls = find_class(name)
    return cls(parent) if name == "QShortcut" else cls()


def normal(text):
    return (
        re.sub(r"0x[0-9a-f]+", "", text)
        .replace(" at: ", " ")
        .replace(" at >", ">")
        .replace(" at>", ">")
        .replace(" )", ")")
    )


class RecordedExpressions(unittest.TestCase):
    """Every recorded expression that does not depend on the machine gives the recorded value."""

    def names(self):
        b, cb, chk, le = qt.QPushButton("abc"), qt.QComboBox(), qt.QCheckBox("c"), qt.QLineEdit("t")
        for item in (("a",), ("b",), ("c", {"k": 1})):
            cb.addItem(*item)
        lw = qt.QListWidget()
        lw.addItem("a")
        return dict(
            slicer=slicer,
            qt=qt,
            ctk=ctk,
            b=b,
            cb=cb,
            chk=chk,
            le=le,
            lw=lw,
            pb=qt.QProgressBar(),
            pr=qt.QProcess(),
            pt=qt.QPlainTextEdit(),
            sp=qt.QDoubleSpinBox(),
            tb=qt.QTextBrowser(),
            tm=qt.QTimer(),
            tw=qt.QTreeWidget(),
            w=qt.QWidget(),
        )

    def test_expressions(self):
        checked = 0
        for expression, expected in RECORDED["facts"].items():
            try:
                code = compile(expression, "fact", "eval")
            except SyntaxError:
                continue
            if NOT_PORTABLE.search(expression) or " at >" in expected or "(C++ object" in expected:
                continue
            with self.subTest(expression=expression):
                try:
                    value = repr(eval(code, self.names()))
                except Exception as error:
                    value = f"raises {type(error).__name__}: {error}"
                self.assertEqual(normal(value), normal(expected))
                checked += 1
        self.assertGreater(checked, 90)


class RecordedClasses(unittest.TestCase):
    """A recorded property is an attribute, a recorded callable is callable, and nothing else is."""

    def test_classes(self):
        parent = qt.QWidget()
        for name in QT_CLASSES + list(PANEL_WIDGETS):
            recorded, thing = recorded_class(name), make(name, parent)
            properties = {p.replace(" (read-only)", "") for p in recorded["properties"]}
            gone = QT5_ONLY | QT5_ONLY_OF_CLASS.get(name, set()) if QT_MAJOR >= 6 else set()
            with self.subTest(cls=name, what="properties"):
                self.assertEqual([p for p in sorted(properties - gone) if not hasattr(thing, p)], [])
                self.assertEqual(
                    [p for p in sorted(properties - gone - {"singleShot"}) if callable(getattr(thing, p))], []
                )
            with self.subTest(cls=name, what="methods"):
                self.assertEqual(
                    [m for m in sorted(recorded["callable"] - gone) if not callable(getattr(thing, m, None))], []
                )
            if ON_HOST:
                with self.subTest(cls=name, what="nothing that Slicer lacks"):
                    known = recorded["callable"] | properties | {"exec_", "raise_", "print_"}
                    extra = [n for n in dir(thing) if not n.startswith("_") and n not in known and hasattr(thing, n)]
                    self.assertEqual(extra, [])
                with self.subTest(cls=name, what="signals"):
                    lost = QT5_ONLY_SIGNALS if QT_MAJOR >= 6 else set()
                    self.assertEqual(
                        [s for s in sorted(recorded["signals"] - lost) if not thing.connect(s, lambda *a: None)], []
                    )

    def test_node_selector(self):
        recorded, selector = recorded_class("qMRMLNodeComboBox"), slicer.qMRMLNodeComboBox()
        for name in (
            "nodeTypes",
            "noneEnabled",
            "addEnabled",
            "removeEnabled",
            "renameEnabled",
            "showHidden",
            "showChildNodeTypes",
            "selectNodeUponCreation",
            "currentNodeID",
            "baseName",
            "noneDisplay",
        ):
            self.assertIn(name, recorded["properties"])
            self.assertFalse(callable(getattr(selector, name)), name)
            self.assertFalse(hasattr(selector, "set" + name[0].upper() + name[1:]) and name != "currentNodeID", name)
        for signal in (
            "currentNodeChanged(vtkMRMLNode*)",
            "currentNodeChanged(bool)",
            "nodeAddedByUser(vtkMRMLNode*)",
            "currentNodeIDChanged(QString)",
            "nodeActivated(vtkMRMLNode*)",
        ):
            self.assertIn(signal, recorded["signals"])
            self.assertTrue(selector.connect(signal, lambda *a: None), signal)
        selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.assertEqual(
            (
                selector.nodeTypes,
                selector.currentNode(),
                selector.currentNodeID,
                selector.noneEnabled,
                selector.addEnabled,
                selector.nodeCount(),
            ),
            (("vtkMRMLScalarVolumeNode",), None, "", False, True, 0),
        )


class RecordedNames(unittest.TestCase):
    def test_names(self):
        for name in RECORDED["slicer.util"]:
            self.assertTrue(hasattr(slicer.util, name), name)
        for name in (
            "applicationLogic coreIOManager layoutManager moduleManager mrmlScene processEvents settings testingEnabled "
            "userSettings revisionUserSettings temporaryPath cachePath slicerHome setOverrideCursor".split()
        ):
            self.assertIn(name, RECORDED["slicer.app"].split())
            self.assertTrue(hasattr(slicer.app, name), name)
        for name in ("terminologies", "userInformation"):
            self.assertFalse(hasattr(slicer.app, name), name)

    @unittest.skipUnless(ON_HOST, "Slicer itself may have more")
    def test_the_application_has_no_other_names(self):
        known = set(RECORDED["slicer.app"].split()) | {"exec_", "raise_", "print_", "name"}
        self.assertEqual([n for n in dir(slicer.app) if n[0] != "_" and n not in known and hasattr(slicer.app, n)], [])

    def test_scripted_classes(self):
        import slicer.ScriptedLoadableModule as scripted

        for name, members in RECORDED["scriptedModule"].items():
            lacking = [m for m in members.split() if not hasattr(getattr(scripted, name), m)]
            python_version_dependent = {"enterClassContext", "enterContext"}
            self.assertEqual(set(lacking) - python_version_dependent, set(), name)


if __name__ == "__main__":
    unittest.main()
