"""A MONAI bundle's configuration as data: references are followed, nothing is evaluated, imported or run.

MONAI runs text behind ``$`` as Python and imports whatever ``_target_`` names. Here an expression is parsed, not run, and
answered where it is built from plain values, references to other entries and a few known names; anything else that a
reader asks for is refused. What nobody asks for, such as data lists and handlers, is never looked at.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PackageError
from . import schema

LIMIT = 4 << 20
"""Largest configuration in bytes."""
_YAML_LIMIT = 256 << 10
_MOST_STEPS = 100_000
_DEEPEST = 60
_LONGEST = 1000
_REFERENCE = re.compile(r"@(\w+(?:(?:::|#)\w+)*)")
_DTYPES = {
    f"{lib}.{name}" for lib in ("torch", "np", "numpy") for name in ("float16", "float32", "float64", "uint8")
} | {f"{lib}.{name}" for lib in ("torch", "np", "numpy") for name in ("int16", "int32", "int64", "uint16")}
_NAMES: dict[str, Any] = {name: name.partition(".")[2] for name in _DTYPES} | {
    "torch.float": "float32",
    "monai.utils.CommonKeys.IMAGE": "image",
    "monai.utils.CommonKeys.LABEL": "label",
    "monai.utils.CommonKeys.PRED": "pred",
    "monai.transforms.utils.is_positive": "is_positive",
}
"""Dotted names that an expression may use, and what they mean here."""


@dataclass(frozen=True)
class Node:
    """An entry of the configuration: its content, as it is written there, and its id such as ``network_def::act``."""

    config: Config
    value: Any
    id: str

    def refusal(self, what: str) -> PackageError:
        """The error that says what is wrong with this entry, in one sentence."""
        return self.config.refusal(self.id, what)

    def followed(self) -> Node:
        """The entry that this one stands for: references and known expressions are replaced by their content."""
        return self.config.follow(self)

    def items(self) -> list[Node]:
        """The entries of a list.

        Raises:
            PackageError: It is no list.
        """
        node = self.followed()
        if not isinstance(node.value, list):
            raise self.refusal(f"{shown(node.value)} is not a list")
        return [_child(node, index, value) for index, value in enumerate(node.value)]

    def component(self) -> Component:
        """What a ``_target_`` names and its arguments.

        Raises:
            PackageError: It names nothing.
        """
        node = self.followed()
        if not isinstance(node.value, dict) or not isinstance(node.value.get("_target_"), str):
            raise self.refusal(f"{shown(node.value)} names no '_target_'")
        arguments = {key: _child(node, key, value) for key, value in node.value.items()}
        for key in ("_target_", "_requires_", "_desc_"):
            arguments.pop(key, None)
        mode = arguments.pop("_mode_", None)
        if mode is not None and mode.data() != "default":
            raise mode.refusal(f"{shown(mode.data())} is not a known mode")
        disabled = arguments.pop("_disabled_", None)
        return Component(node, node.value["_target_"], arguments, disabled is not None and disabled.data() is True)

    def data(self, depth: int = 0) -> Any:
        """Plain data: text, finite numbers, truth values, None, lists, and tables with text keys.

        Raises:
            PackageError: Something in it needs code to be run.
        """
        node = self.followed()
        if depth > _DEEPEST:
            raise node.refusal("it is nested too deeply")
        if isinstance(node.value, list):
            return [_child(node, index, value).data(depth + 1) for index, value in enumerate(node.value)]
        if isinstance(node.value, dict):
            if "_target_" in node.value:
                raise node.refusal(f"the object {shown(node.value['_target_'])} stands where plain data is expected")
            return {key: _child(node, key, value).data(depth + 1) for key, value in node.value.items()}
        if isinstance(node.value, float) and not math.isfinite(node.value):
            raise node.refusal(f"{node.value} is not a finite number")
        return node.value


@dataclass(frozen=True)
class Component:
    """An object that the configuration would build: its ``_target_`` and arguments; ``disabled`` ones do nothing."""

    node: Node
    target: str
    arguments: dict[str, Node]
    disabled: bool = False

    def name(self, *places: str) -> str | None:
        """The class's own name where ``target`` is that alone or lies in one of the modules ``places``; else None."""
        module, _, name = self.target.rpartition(".")
        inside = not module or any(module == place or module.startswith(f"{place}.") for place in places)
        return name if inside and name.isidentifier() else None


class Config:
    """The entries of one configuration file.

    Args:
        model: What the bundle is called, for messages.
        file: The file's path below the bundle's folder, for messages.
        content: What the file holds.
    """

    def __init__(self, model: str, file: str, content: dict[str, Any]) -> None:
        self.model, self.file = model, file
        self._root = Node(self, content, "")
        self._steps = 0
        self._open: list[str] = []

    def refusal(self, place: str, what: str) -> PackageError:
        """The error for the entry ``place``, in one sentence."""
        return PackageError(f"Bundle '{self.model}' cannot be used: in {self.file}, {shown(place)}: {what}.")

    def __contains__(self, key: str) -> bool:
        return key in self._root.value

    def get(self, path: str) -> Node:
        """The entry at ``path`` (``a::b::0``).

        Raises:
            PackageError: There is none.
        """
        node = self._root
        for part in path.replace("#", "::").split("::"):
            node = node.followed() if node is not self._root else node
            value = node.value
            if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                node = _child(node, int(part), value[int(part)])
            elif isinstance(value, dict) and part in value:
                node = _child(node, part, value[part])
            else:
                raise self.refusal(path, "there is no such entry")
        return node

    def keys(self) -> Iterator[str]:
        """The names of the top entries."""
        return iter(self._root.value)

    def follow(self, node: Node) -> Node:
        """See :meth:`Node.followed`."""
        self._steps += 1
        if self._steps > _MOST_STEPS or len(self._open) > _DEEPEST:
            raise self.refusal(node.id, "its references lead too far")
        text = node.value
        if not isinstance(text, str) or not text.startswith(("@", "$", "%")):
            return node
        if node.id in self._open:
            raise self.refusal(node.id, f"{shown(text)} refers to itself")
        self._open.append(node.id)
        try:
            if text.startswith("$"):
                value = _Expression(node).value()
                return value if isinstance(value, Node) else Node(self, value, node.id)
            if text.startswith("%"):
                if not re.fullmatch(r"%\w+(?:(?:::|#)\w+)*", text):
                    raise self.refusal(node.id, f"{shown(text)} takes a part of another file, which is not followed")
                return self.get(text[1:]).followed()
            if match := _REFERENCE.fullmatch(text):
                return self.get(match[1]).followed()
            if text.startswith("@::") or text.startswith("@#"):
                raise self.refusal(node.id, f"{shown(text)} is a relative reference, which is not followed")
            return node
        finally:
            self._open.pop()


class _Expression:
    """Text behind ``$``, parsed as Python and never run."""

    def __init__(self, node: Node) -> None:
        self._node, self._references = node, []
        self._text = node.value[1:].strip()

    def value(self) -> Any:
        """Plain data, or the entry that is referred to.

        Raises:
            PackageError: It is more than plain values, references and known names.
        """
        if len(self._text) > _LONGEST:
            raise self._refusal()

        def placeholder(match: re.Match[str]) -> str:
            self._references.append(match[1])
            return f"_entry_{len(self._references) - 1}_"

        try:
            tree = ast.parse(_REFERENCE.sub(placeholder, self._text), mode="eval")
            return self._value(tree.body)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self._refusal() from None

    def _refusal(self) -> PackageError:
        return self._node.refusal(f"the expression {shown(self._node.value)} would have to be run as code")

    def _value(self, tree: ast.expr) -> Any:
        if isinstance(tree, ast.Constant) and isinstance(tree.value, str | int | float | None):
            if isinstance(tree.value, str) and "_entry_" in tree.value:
                raise self._refusal()
            return tree.value
        if isinstance(tree, ast.Name) and (match := re.fullmatch(r"_entry_(\d+)_", tree.id)):
            return self._node.config.get(self._references[int(match[1])]).followed()
        if isinstance(tree, ast.List | ast.Tuple):
            return [self._value(part) for part in tree.elts]
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
            return -self._number(tree.operand)
        if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
            return self._sum(self._value(tree.left), self._value(tree.right))
        if isinstance(tree, ast.IfExp):
            chosen = self._plain(tree.test)
            if not isinstance(chosen, bool):
                raise self._refusal()
            return self._value(tree.body if chosen else tree.orelse)
        if isinstance(tree, ast.Call) and not tree.keywords:
            return self._call(ast.unparse(tree.func), tree.args)
        if isinstance(tree, ast.Attribute) and (name := ast.unparse(tree)) in _NAMES:
            return _NAMES[name]
        raise self._refusal()

    def _call(self, name: str, arguments: list[ast.expr]) -> Any:
        if name == "torch.device":  # which one is ours to choose
            return "device"
        if name == "len" and len(arguments) == 1:
            content = self._value(arguments[0])
            content = content.value if isinstance(content, Node) else content
            if isinstance(content, list | dict | str):
                return len(content)
        if name in ("list", "tuple") and len(arguments) == 1:
            return [*self._entries(self._value(arguments[0]))]
        if name == "os.path.join" and arguments:
            parts = [self._plain(argument) for argument in arguments]
            if all(isinstance(part, str) for part in parts):
                return "/".join(parts)
        raise self._refusal()

    def _sum(self, left: Any, right: Any) -> Any:
        first, second = (x.value if isinstance(x, Node) else x for x in (left, right))
        if isinstance(first, str) and isinstance(second, str) and len(first) + len(second) <= _LONGEST:
            return first + second
        if all(isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e15 for x in (first, second)):
            return first + second
        if isinstance(first, list) and isinstance(second, list) and len(first) + len(second) <= _LONGEST:
            return [*self._entries(left), *self._entries(right)]
        raise self._refusal()

    def _entries(self, content: Any) -> list[Any]:
        if isinstance(content, Node) and isinstance(content.value, list):
            return [_child(content, index, value) for index, value in enumerate(content.value)]
        if isinstance(content, list):
            return content
        raise self._refusal()

    def _number(self, tree: ast.expr) -> float:
        number = self._plain(tree)
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise self._refusal()
        return number

    def _plain(self, tree: ast.expr) -> Any:
        value = self._value(tree)
        return value.value if isinstance(value, Node) else value


def load(folder: Path, model: str, stem: str) -> Config | None:
    """Read ``configs/<stem>.json``, or ``.yaml`` where PyYAML is installed; None where there is neither.

    Raises:
        PackageError: It cannot be read, or is no table.
    """
    for ending in ("json", "yaml", "yml"):
        file = f"configs/{stem}.{ending}"
        if (folder / file).is_file():
            return Config(model, file, load_table(folder, model, file))
    return None


def load_table(folder: Path, model: str, file: str) -> dict[str, Any]:
    """The entries of a JSON or YAML file of a bundle.

    Args:
        folder: The bundle.
        model: What messages call it.
        file: Path of the file in the bundle.

    Raises:
        PackageError: It cannot be read, or is no table.
    """
    path = folder / file
    try:
        content = schema.load_json(path, LIMIT) if file.endswith(".json") else _load_yaml(path)
    except OSError as error:
        raise PackageError(f"Bundle '{model}': {file} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise PackageError(f"Bundle '{model}' cannot be used: {file} {one_line(str(error))}.") from None
    if not isinstance(content, dict):
        raise PackageError(f"Bundle '{model}' cannot be used: {file} is not a table of entries.")
    return content


def shown(value: Any) -> str:
    """A value as a message quotes it: short, on one line, without control characters."""
    text = one_line(value if isinstance(value, str) else repr(value), 90)
    return f"'{text}'"


def one_line(text: str, most: int = 200) -> str:
    """Text without control characters, cut where it is longer than ``most``."""
    text = "".join(c if c.isprintable() else " " for c in text[: most + 1])
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _child(parent: Node, key: Any, value: Any) -> Node:
    if isinstance(value, Node):
        return value
    return Node(parent.config, value, f"{parent.id}::{key}" if parent.id else str(key))


def _load_yaml(path: Path) -> Any:
    """Read YAML as strictly as JSON: plain data, no repeated keys, no anchors (of which few lines make gigabytes).

    Raises:
        ValueError: What is wrong, as a clause that fits behind the file's name.
        OSError: The file cannot be read.
    """
    try:
        import yaml
    except ImportError:
        raise ValueError("is YAML, which needs PyYAML to be read: pip install pyyaml") from None

    def plain(node: Any, depth: int = 0) -> Any:
        if depth > _DEEPEST:
            raise ValueError("is nested too deeply")
        if isinstance(node, yaml.ScalarNode):
            value = loader.construct_object(node)
            if not isinstance(value, str | int | float | None):
                raise ValueError(f"holds {shown(node.value)}, which is neither text nor a number")
            return value
        if isinstance(node, yaml.SequenceNode):
            return [plain(part, depth + 1) for part in node.value]
        table: dict[str, Any] = {}
        for key_node, part in node.value:
            key = str(plain(key_node, depth + 1))
            if key in table:
                raise ValueError(f"names {shown(key)} twice")
            table[key] = plain(part, depth + 1)
        return table

    if path.stat().st_size > _YAML_LIMIT:  # it is read some hundred times slower than JSON
        raise ValueError(f"is larger than {_YAML_LIMIT >> 10} KiB")
    try:
        text = path.read_text("utf-8")
        level = 0
        for event in yaml.parse(text, yaml.SafeLoader):  # nothing is built yet, so that it can be left off in time
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("uses YAML anchors, which are not followed")
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if level > _DEEPEST:
                raise ValueError("is nested too deeply")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        return None if node is None else plain(node)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        raise ValueError(f"is not YAML{place}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
