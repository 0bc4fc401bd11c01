"""What somebody at a terminal can put right."""

from __future__ import annotations


class UserError(Exception):
    """Its message says what was found, what is expected and what to do; a command prints it, without a traceback."""
