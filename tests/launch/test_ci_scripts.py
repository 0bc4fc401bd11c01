"""What CI runs passes the linter of shell scripts."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.paths import ROOT


@pytest.mark.parametrize("script", sorted((ROOT / ".ci").iterdir()), ids=lambda script: script.name)
def test_shellcheck(script):
    subprocess.run(["shellcheck", script], check=True)
