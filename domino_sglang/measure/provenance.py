"""Where and how a measurement was made: the head of every report."""

from __future__ import annotations

import datetime
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from domino_sglang.measure.environment import hardware, versions

RESULTS = Path("benchmarks") / "results"
OWN = ("domino_sglang", "domino_kernels")


@dataclass(frozen=True)
class Provenance:
    """Date (UTC), hardware, versions, commit and command of one measurement."""

    date: str
    hardware: str
    versions: dict[str, str]
    commit: str
    command: str

    @classmethod
    def now(cls, **more: Any) -> Self:
        """Of this run; ``more`` are the fields of a subclass."""
        return cls(
            date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            hardware=hardware(),
            versions=versions(),
            commit=commit(),
            command=command(sys.argv[1:]),
            **more,
        )

    def markdown(self) -> list[str]:
        """Lines for the top of a report."""
        packages = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return [
            f"- date: {self.date}",
            f"- hardware: {self.hardware}",
            f"- versions: {packages}",
            f"- commit: {self.commit}",
            f"- command: `{self.command}`",
        ]


def results_folder(what: str, out: Path | None = None) -> Path:
    """``out``, or a new ``benchmarks/results/<date>-<hardware>-<what>``, made."""
    if out is None:
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        stem = RESULTS / f"{date}-{slug(hardware())}-{what}"
        out, number = stem, 2
        while out.exists():
            out, number = stem.with_name(f"{stem.name}-{number}"), number + 1
    out.mkdir(parents=True, exist_ok=True)
    return out


def slug(text: str) -> str:
    """A short name for a folder: ``Intel(R) Xeon(R) CPU @ 2.20GHz, 2 cores, no GPU`` is ``intel-xeon-2-cores``."""
    text = re.sub(r"\((r|tm)\)|@ *[\d.]+ *ghz|\b(cpu|processor|no gpu)\b", " ", text.lower())
    return "-".join(re.findall(r"[a-z0-9]+", text))[:48].strip("-")


def commit() -> str:
    """The commit this code is at, ``(modified)`` when files of the package or the kernels differ from it, or what is
    installed, where no repository tracks the package."""
    folders = [Path(spec.origin).parent for name in OWN if (spec := find_spec(name)) and spec.origin]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=folders[0], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # A repository around a virtual environment holds an installation without tracking it.
        git("ls-files", "--error-unmatch", "--", "__init__.py")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *map(str, folders))
        return git("rev-parse", "--short=12", "HEAD") + (" (modified)" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return f"installed package, version {versions()['domino-sglang']}"


def command(arguments: list[str]) -> str:
    """The command line, with folders of this machine left out."""
    return shlex.join(["domino-sglang", *map(without_folders, arguments)])


def without_folders(text: str) -> str:
    """``/a/b/model`` becomes ``.../model``, wherever it stands in the text; URLs stay."""
    return re.sub(r"(?<![\w.:/])/(?:[\w.+@~-]+/)+(?=[\w.+@~-])", ".../", text)
