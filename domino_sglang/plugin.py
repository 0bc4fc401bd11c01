"""Entry points only: SGLang calls these in every process it starts."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

SGLANG_VERSION = "0.5.23"


def register() -> None:
    """Register ``DOMINO`` with SGLang (entry point group ``sglang.srt.plugins``).

    SGLang only logs a plugin that raises, and then calls DOMINO unknown. So whatever goes wrong here is kept and said
    again, as the reason for not starting, when a server asks for DOMINO.
    """
    try:
        _require_sglang(SGLANG_VERSION)
        from domino_sglang.serving.algorithm import register_domino

        register_domino()
    except Exception as error:
        logger.exception("DOMINO could not be registered")
        _register_refusal(error)


def cpu_platform() -> str | None:
    """The CPU platform's class on machines without an accelerator (group ``sglang.srt.platforms``)."""
    from domino_sglang.serving.cpu import cpu_platform_if_needed

    return cpu_platform_if_needed()


def _require_sglang(needed: str) -> None:
    import sglang

    if sglang.__version__ != needed:
        raise RuntimeError(
            f"domino-sglang rests on internals of SGLang {needed} and found {sglang.__version__}; "
            f"run: pip install sglang=={needed}"
        )


def _register_refusal(error: Exception) -> None:
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
    from sglang.srt.speculative.spec_registry import CustomSpecAlgo, get_spec

    from domino_sglang.serving.refusal import refusing

    class DominoUnavailable(CustomSpecAlgo):
        reason = str(error)

        def handle_server_args(self, server_args) -> None:
            with refusing():
                raise ValueError(self.reason)

    if get_spec("DOMINO") is None:
        SpeculativeAlgorithm.register("DOMINO", supports_overlap=True, spec_class=DominoUnavailable)(lambda args: None)
