"""The subject hierarchy's plugins, as far as a scripted one needs them: who is registered, and the item a menu is about."""

import sys
import traceback
from pathlib import Path

from PySide6.QtCore import QObject

from . import pythonqt
from .widgets_ctk import stored


class qSlicerSubjectHierarchyScriptedPlugin(QObject):
    """A plugin that asks a Python object, which ``setPythonSource`` makes of the class ``<file>SubjectHierarchyPlugin``."""

    name = stored(str, "name", "UnnamedScriptedPlugin")
    _self = None

    def setPythonSource(self, path):
        module = Path(path).stem
        made = getattr(sys.modules.get(module), module + "SubjectHierarchyPlugin", None)
        try:
            self._self = made(pythonqt.proxy_of(self))
        except Exception:  # Slicer prints it and goes on without
            traceback.print_exc()
            return False
        return True

    def self(self):
        return self._self


class qSlicerSubjectHierarchyPluginHandler(QObject):
    """The one and only; ``currentItem`` is what the menu was opened on, 0 where it is not one item."""

    _instance = None

    def __init__(self):
        super().__init__()
        self._plugins, self._item = [], 0

    @staticmethod
    def instance():
        cls = qSlicerSubjectHierarchyPluginHandler
        cls._instance = cls._instance or cls()
        return cls._instance

    def registerPlugin(self, plugin):
        if plugin is None or not plugin.name or self.pluginByName(plugin.name) is not None:
            return False
        self._plugins.append(plugin)
        return True

    def registeredPlugins(self):
        return list(self._plugins)

    def pluginByName(self, name):
        return next((plugin for plugin in self._plugins if plugin.name == name), None)

    def setCurrentItem(self, item):
        self._item = item

    def currentItem(self):
        return self._item


CLASSES = {c.__name__: c for c in (qSlicerSubjectHierarchyScriptedPlugin, qSlicerSubjectHierarchyPluginHandler)}
