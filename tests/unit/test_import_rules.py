"""Who may import whom (the house's boundaries), read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"domino_sglang": ROOT / "domino_sglang", "domino_kernels": ROOT / "kernels" / "domino_kernels"}

# The modules that stand between SGLang and the rest. All else must work where SGLang is not installed.
TOUCH_SGLANG = {
    "plugin",
    "algorithm",
    "admission",
    "upstream",
    "worker",
    "adaptive",
    "patience",
    "choices",
    "draft_model",
    "target_head",
    "target_law",
    "first_token",
    "metrics",
    "platforms",
}
NEVER_REACH_SGLANG = (
    "config",
    "head",
    "random_numbers",
    "verify",
    "checkpoint",
    "devices",
    "errors",
    "hf",
    "training",
    "proposer",
    "penalties",
    "resumed",
    "seeds",
    "late_context",
    "cli",
    "inspect_checkpoint",
    "server_process",
    "demo",
)


def modules(package: str) -> dict[str, Path]:
    root = PACKAGES[package]
    found = {}
    for file in sorted(root.rglob("*.py")):
        parts = [package, *file.relative_to(root).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(file: Path) -> Iterator[str]:
    """Every module named by an import statement, wherever it stands in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level(names: Iterator[str]) -> set[str]:
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)


SOURCES = {name: file for package in PACKAGES for name, file in modules(package).items()}


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("domino_kernels")])
def test_kernels_know_torch_and_triton_only(name):
    assert top_level(imports(SOURCES[name])) <= {"torch", "triton", "domino_kernels"}


def area(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_only_the_named_modules_touch_sglang():
    touching = {
        area(name)
        for name, file in SOURCES.items()
        if name.startswith("domino_sglang") and top_level(imports(file)) & {"sglang", "sgl_kernel"}
    }
    assert touching <= TOUCH_SGLANG


@pytest.mark.parametrize("start", NEVER_REACH_SGLANG)
def test_the_rest_never_reaches_sglang_through_others(start):
    waiting = [name for name in SOURCES if area(name) == start and name.startswith("domino_sglang")]
    assert waiting, f"no module domino_sglang.{start}: correct this list"
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        named = set(imports(SOURCES[name]))
        assert "sglang" not in top_level(iter(named)), f"{start} reaches sglang through {name}"
        waiting += [other for other in named if other in SOURCES]


@pytest.mark.parametrize("folder", ["kernels", "benchmarks", "launch"])
def test_folders_that_must_not_become_packages(folder):
    # `python -m sglang.launch_server` puts the current folder on the path, and SGLang imports a PyPI package `kernels`.
    assert not (ROOT / folder / "__init__.py").exists()
