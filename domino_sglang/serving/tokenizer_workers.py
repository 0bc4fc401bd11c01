"""In tokenizer workers (``--tokenizer-worker-num``) SGLang loads no plugins, and DOMINO would be unknown there.

They read their arguments from shared memory before anything else. So does a process that joins an engine with
``Engine.attach_tokenizer_worker``. What they read loads the plugins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang.srt.plugins import load_plugins


class PluginsLoaded:
    """Unpickles to True, in a process that has loaded its plugins by then."""

    def __reduce__(self):
        return _load, ()


def _load() -> bool:
    load_plugins()
    return True


def send_plugins(original: Callable, port_args: Any, server_args: Any, scheduler_info: dict[str, Any]) -> Any:
    """Around ``write_data_for_multi_tokenizer``."""
    return original(port_args, server_args, scheduler_info | {"plugins_loaded": PluginsLoaded()})
