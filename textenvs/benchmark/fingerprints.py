"""Hashes of what a cell's outcome depends on beside its settings: source text and data."""

import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import gymnasium as gym

import textenvs.rewards
from textenvs.rewards import BaseReward, FunctionReward, Reward
from textenvs.tokenization import ASSETS, TINY_LM
from textenvs.types import Prompt

DIGITS = 16
"""Hexadecimal digits of a hash: 64 bits."""

PROMPTS_READ = 256
"""Prompts of each split that are hashed; enough to see another corpus or another sampling."""


def text_hash(text: str) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: keys sorted, no white space, no NaN.

    Raises:
        ValueError: if a number is not finite.
        TypeError: if JSON cannot hold the value.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def reward_hash(reward: Reward) -> str:
    """Return the hash of the source text that a reward is made of.

    That is the module of each reward and function in it, and what these modules import, as
    far as it lies in the same place: of a shipped reward within `textenvs/rewards`, of one's
    own within its package, or, for a module that stands alone, beside it.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_sources(_modules(reward)).items()):
        digest.update(f"{name}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:DIGITS]


def prompts_hash(env_id: str, options: Mapping[str, Any], split: str) -> str:
    """Return the hash of how many prompts a split of an environment has, and of the first 256.

    Raises:
        TextEnvsError: if the environment cannot be made with these options.
    """
    env = gym.make(env_id, **{**options, "split": split})
    prompts = env.unwrapped.prompts  # type: ignore[attr-defined]
    digest = hashlib.sha256(str(len(prompts)).encode())
    for index in range(min(PROMPTS_READ, len(prompts))):
        digest.update(_prompt_text(prompts[index]).encode("utf-8", "surrogatepass"))
    env.close()
    return digest.hexdigest()[:DIGITS]


def file_hashes(*values: Any) -> dict[str, str]:
    """Return the hash of every file and folder that is named among some options.

    A text is taken for a path if something lies there and it holds a separator or a dot, so
    that an option called like a folder by accident is left alone.

    Args:
        *values: Texts, or mappings and lists that hold them at any depth.
    """
    return {text: path_hash(text) for text in sorted(set(_texts(values))) if _is_path(text)}


def model_hash(name: str) -> str | None:
    """Return the hash of a model's folder; None for a model that is not on this machine."""
    folder = ASSETS / TINY_LM if name == TINY_LM else Path(name)
    return path_hash(str(folder)) if folder.is_dir() else None


@lru_cache(maxsize=256)
def path_hash(path: str) -> str:
    """Return the hash of a file's content, or of a folder's files with their names.

    A path is read once per process.
    """
    root, digest = Path(path), hashlib.sha256()
    files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
    for file in files:
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:DIGITS]


def _prompt_text(prompt: Prompt) -> str:
    fields = (prompt.id, prompt.text, prompt.context, prompt.reference, prompt.group)
    return repr((*fields, sorted(prompt.metadata.items(), key=str)))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _is_path(text: str) -> bool:
    if "\n" in text or "\0" in text or not any(sign in text for sign in "/\\."):
        return False
    try:
        return text.strip("./\\") != "" and Path(text).exists()
    except OSError:  # a text too long for a file name
        return False


def _modules(reward: Any) -> set[str]:
    """Return the modules of a reward, of the rewards within it and of their functions."""
    found = {type(reward).__module__}
    if isinstance(reward, FunctionReward):
        function: Any = reward.function
        while isinstance(function, partial):
            function = function.func
        found.add(str(getattr(function, "__module__", None) or type(function).__module__))
    if isinstance(reward, BaseReward):
        for inner in reward.inner:
            found |= _modules(inner)
    return found


def _sources(modules: Iterable[str]) -> dict[str, Path]:
    """Return module -> source file, imports within the same place included."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _source_file(name)
        if path is None or name in found:
            continue
        found[name] = path
        for other in _imports(path):
            file = _source_file(other)
            if file is not None and _is_near(file, name, path):
                waiting.append(other)
    return found


def _is_near(file: Path, module: str, path: Path) -> bool:
    """Return whether an imported file lies in the place of the module that imports it."""
    if module.startswith("textenvs."):
        return file.is_relative_to(Path(textenvs.rewards.__file__).parent)
    dots, is_package = module.count("."), path.name == "__init__.py"
    if not dots and not is_package:  # on its own, beside others: in site-packages, all of them
        return file.parent == path.parent
    return file.is_relative_to(path.parents[max(0, dots - 1 + is_package)])


def _imports(path: Path) -> Iterator[str]:
    """Return the modules that a source file may import when it is imported."""
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@lru_cache(maxsize=1024)
def _source_file(module: str) -> Path | None:
    """Return the Python file of a module; None if it has none."""
    if module in sys.modules:
        origin = getattr(sys.modules[module], "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, AttributeError, ValueError):  # a name within a module, not a module
            return None
        origin = None if spec is None else spec.origin
    path = None if origin is None else Path(origin)
    return path if path is not None and path.suffix == ".py" and path.is_file() else None
