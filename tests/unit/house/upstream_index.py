"""What of SGLang and torch the code patches, read from the code; and the rows of ``docs/upstream.md``."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import domino_sglang.serving
from tests.support.paths import ROOT

SERVING = ROOT / "domino_sglang" / "serving"
PAGE = ROOT / "docs" / "upstream.md"
# (file below domino_sglang/serving, name as docs/upstream.md writes it)
Patch = tuple[str, str]

HOOK = re.compile(r"sglang(\.\w+){2,}")
# Names under which the code holds objects of its own classes.
OUR_OBJECTS = ("self", "worker")
# Calls that change SGLang's resolved settings.
SETTING_CALLS = ("declare_resolution", "override")


def files() -> list[Path]:
    return sorted(SERVING.rglob("*.py"))


def here(file: str | Path) -> str:
    return Path(file).relative_to(SERVING).as_posix()


def hooks() -> set[Patch]:
    """Every dotted name of SGLang that stands alone in a string: what ``HookRegistry.register`` is given."""
    return {
        (here(file), node.value)
        for file in files()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and HOOK.fullmatch(node.value)
    }


def overrides() -> set[Patch]:
    """``Base.name`` for everything a class of ours defines over a class of SGLang's or torch's."""
    found = set()
    for module in _serving_modules():
        for cls in _classes(module):
            for name in vars(cls):
                owner = next((base for base in cls.__mro__[1:] if _foreign(base) and name in vars(base)), None)
                if owner is not None and not name.startswith(("__", "_abc")):
                    found.add((here(inspect.getfile(cls)), f"{owner.__name__}.{name}"))
    return found


def settings() -> set[Patch]:
    """Every attribute or entry set on an object that is not the code's own, written as the code writes it."""
    own = _own_attributes()
    found = set()
    for file in files():
        for node in ast.walk(ast.parse(file.read_text())):
            found |= {(here(file), name) for name in set_by(node, own)}
    return found


def _serving_modules() -> list:
    prefix = domino_sglang.serving.__name__ + "."
    names = [info.name for info in pkgutil.walk_packages(domino_sglang.serving.__path__, prefix)]
    return [importlib.import_module(name) for name in names]


def _classes(module) -> Iterator[type]:
    for cls in vars(module).values():
        if inspect.isclass(cls) and cls.__module__ == module.__name__:
            yield cls


def _foreign(cls: type) -> bool:
    return cls.__module__.split(".")[0] in ("sglang", "torch")


def set_by(node: ast.AST, own: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                if _is_foreign_place(part, own):
                    yield ast.unparse(part)
    elif isinstance(node, ast.Call):
        function = node.func
        name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
        if name == "setattr":
            owner, attribute = node.args[:2]
            literal = isinstance(attribute, ast.Constant)
            yield f"{ast.unparse(owner)}.{attribute.value}" if literal else ast.unparse(node)
        elif name in SETTING_CALLS:
            yield ast.unparse(function)


def _is_foreign_place(target: ast.AST, own: set[str]) -> bool:
    if isinstance(target, ast.Subscript):
        return isinstance(target.value, ast.Attribute) and _is_foreign(target.value, own)
    return isinstance(target, ast.Attribute) and _is_foreign(target, own)


def _is_foreign(place: ast.Attribute, own: set[str]) -> bool:
    if _is_name_self(place.value):
        return False
    root: ast.AST = place
    while isinstance(root, ast.Attribute):
        root = root.value
    return not (isinstance(root, ast.Name) and root.id in OUR_OBJECTS and place.attr in own)


def _is_name_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _own_attributes() -> set[str]:
    """Names that a class of ours gives its own objects: ``self.name = ...``, or a field of its body."""
    names = set()
    for file in files():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                names |= {item.target.id for item in node.body if isinstance(item, ast.AnnAssign)}
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_name_self(node.value):
                names.add(node.attr)
    return names


def rows(section: str) -> list[list[str]]:
    """The cells of each row of one table of the page."""
    text = PAGE.read_text().split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]


def listed(section: str) -> set[Patch]:
    """Every name of a row's first cell, with the file of its second."""
    return {
        (file, name)
        for names, where, *_ in rows(section)
        for file in re.findall(r"`([^`]+)`", where)
        for name in re.findall(r"`([^`]+)`", names)
    }
