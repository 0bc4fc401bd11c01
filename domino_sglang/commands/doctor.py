"""``domino-sglang doctor``: what would keep DOMINO from serving here, and what to do about it."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from domino_sglang.plugin import SGLANG_VERSION


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was looked at.
        found: what is there.
        fix: what to do; empty when all is well.
    """

    subject: str
    found: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        return not self.fix


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print every finding; 0 only when none needs a fix."""
    findings = examine()
    if args.json:
        text = json.dumps({"ok": all(f.ok for f in findings), "findings": [asdict(f) for f in findings]}, indent=2)
    else:
        text = "\n".join(_lines(findings))
    sys.stdout.write(text + "\n")
    return 0 if all(finding.ok for finding in findings) else 1


def examine() -> list[Finding]:
    """Look at everything; a check that fails becomes a finding instead of an error."""
    checks: list[Callable[[], list[Finding]]] = [_versions, _entry_points, _device, _registration]
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:
            findings.append(
                Finding(check.__name__.strip("_"), f"{type(error).__name__}: {error}", "mend the error named here")
            )
    return findings


def _versions() -> list[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    findings = [Finding("Python", python, "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer")]
    for name in ("domino-sglang", "sglang", "torch", "triton", "transformers", "sglang-kernel", "flashinfer-python"):
        try:
            found, fix = importlib.metadata.version(name), ""
        except importlib.metadata.PackageNotFoundError:
            found, fix = "not installed", f"pip install {name}"
        if name == "sglang" and found != SGLANG_VERSION:
            fix = f"domino-sglang rests on internals of SGLang: pip install sglang=={SGLANG_VERSION}"
        findings.append(Finding(name, found, fix))
    return findings


def _entry_points() -> list[Finding]:
    findings = []
    for group, name in (("sglang.srt.plugins", "domino"), ("sglang.srt.platforms", "domino_cpu")):
        known = [entry.name for entry in importlib.metadata.entry_points(group=group)]
        fix = "" if name in known else "pip install domino-sglang into the environment that runs SGLang"
        findings.append(Finding(f"entry point {group}", ", ".join(known) or "none", fix))
    only = os.environ.get("SGLANG_PLUGINS")
    if only is not None and "domino" not in [name.strip() for name in only.split(",")]:
        findings.append(Finding("SGLANG_PLUGINS", only, "unset it, or add domino to the list"))
    return findings


def _device() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        findings = []
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            fix = "" if p.major >= 8 else "DOMINO's kernels need compute capability 8.0 or newer"
            memory = f"{p.total_memory / 2**30:.0f} GiB"
            findings.append(Finding(f"GPU {i}", f"{p.name}, {memory}, sm_{p.major}{p.minor}", fix))
        return findings
    if os.environ.get("SGLANG_USE_CPU_ENGINE", "0") == "1":
        return [
            Finding("GPU", "none, and SGLANG_USE_CPU_ENGINE=1", "unset it: DOMINO brings a CPU platform of its own")
        ]
    return [Finding("GPU", f"none; serving on {os.cpu_count()} CPU cores, for trying out")]


# In a process of its own: SGLang's plugins are loaded once per process, and this one may have looked already.
_ASK_SGLANG = """
import json
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.srt.platforms import current_platform
from sglang.srt.speculative.spec_registry import get_spec
algorithm = get_spec("DOMINO")
names = [type(current_platform).__name__, type(algorithm).__name__, getattr(algorithm, "reason", "")]
print("ANSWER" + json.dumps(names))
"""


def _registration() -> list[Finding]:
    reply = subprocess.run([sys.executable, "-c", _ASK_SGLANG], capture_output=True, text=True, cwd=os.sep)
    answers = [line.removeprefix("ANSWER") for line in reply.stdout.splitlines() if line.startswith("ANSWER")]
    if not answers:
        last = (reply.stderr.strip().splitlines() or ["no output"])[-1]
        return [Finding("SGLang", last, "SGLang itself does not start: mend the error named here")]
    platform, algorithm, reason = json.loads(answers[0])
    fix = "" if algorithm == "DominoAlgorithm" else (reason or "pip install domino-sglang")
    return [Finding("platform in force", platform), Finding("DOMINO in SGLang", algorithm, fix)]


def _lines(findings: list[Finding]) -> list[str]:
    width = max(len(finding.subject) for finding in findings)
    lines = [f"{'ok ' if f.ok else 'BAD'}  {f.subject:<{width}}  {f.found}" for f in findings]
    fixes = [f"- {f.subject}: {f.fix}" for f in findings if not f.ok]
    return [*lines, "", "What to do:", *fixes] if fixes else [*lines, "", "DOMINO can serve here."]
