"""A corpus and a scripted play that every test of the environments can use."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from textenvs.types import Prompt

PROMPTS = [Prompt(id=f"p{i}", text="ab" * (i % 4 + 1) + str(i)) for i in range(7)]
"""Prompts of 3 to 9 bytes."""


def count_a(prompt: Prompt, completion: str) -> float:
    """Score an answer by its letters "a", and a little by its prompt."""
    return completion.count("a") + 0.125 * len(prompt.text)


@pytest.fixture
def toy(byte_tokenizer: Any) -> dict[str, Any]:
    """Arguments of a `TextEnv` of 7 prompts, 9 prompt columns and 5 new tokens."""
    return {
        "prompts": PROMPTS,
        "reward": count_a,
        "tokenizer": byte_tokenizer,
        "max_prompt_tokens": 9,
        "max_new_tokens": 5,
    }


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A TSV of 120 short titles in three categories."""
    path: Path = tmp_path_factory.mktemp("corpus") / "items.tsv"
    rows = [f"t{i} {'xyz'[i % 3] * 3}\t{('red', 'green', 'blue')[i % 3]}" for i in range(120)]
    path.write_text("title\tcategory\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def select_options(corpus_file: str, byte_folder: Path) -> dict[str, Any]:
    """Options of a small, quick `textenvs/ContextSelect-v0`, all JSON-able."""
    return {
        "corpus": corpus_file,
        "tokenizer": str(byte_folder),
        "n_items": 3,
        "max_targets": 1,
        "n_prompts": 50,
        "max_prompt_tokens": 160,
        "max_new_tokens": 6,
        "template": "{items}\n{category}:",
    }


@pytest.fixture(scope="session")
def random_actions(byte_tokenizer: Any) -> Callable[..., np.ndarray]:
    """Return a maker of tokens: letters, one in four the EOS, so that rows end unevenly."""
    letters = byte_tokenizer.encode_completion("abt")

    def make(seed: int, shape: Sequence[int] | int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        return generator.choice([*letters, byte_tokenizer.eos_id], shape).astype(np.int64)

    return make


def plain(value: Any) -> Any:
    """Return infos as plain Python data, so that `==` compares them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, tuple)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


@pytest.fixture(scope="session")
def as_plain() -> Callable[[Any], Any]:
    """`plain`, for tests."""
    return plain
