"""Adapter to the package reasoning-gym: its generators, its verifiers, kept in bounds.

The package (Stojanovski et al., "Reasoning Gym", arXiv:2505.24760; Apache-2.0) makes tasks by
index and scores answers with a verifier of each dataset. Here it is imported only when asked
for, its use of the global random generators neither shows nor matters, and no answer is run
as a program (`textenvs.suite.answer_guard`).
"""

import copy
import dataclasses
import datetime
import enum
import io
import json
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np

from textenvs.errors import ConfigError, MissingDependencyError, UnknownNameError
from textenvs.suite.answer_guard import harmless

INSTALL = 'pip install "textenvs[reasoning-gym]"'
POOL, SMALL_POOL = 2**31 - 1, 5_000
SMALL = frozenset({"acre", "composite", "gsm_symbolic", "list_functions", "word_ladder"})
"""Datasets that prepare every task when they are created, or refuse to be large."""
UNREADABLE = ")"
"""Stands for an answer that must not be evaluated: no verifier that evaluates can read it."""
ANSWER_LIMIT, ANSWER_FACTOR = 4096, 4
"""Longest answer shown to a verifier, in characters and in lengths of the right answer."""
ANSWERS_BESIDE = ("example_answer", "example_correct_answer", "possible_answer")
"""Where the metadata of an entry has a right answer if the entry itself has none."""


def package() -> Any:
    """Return the package `reasoning_gym`.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise MissingDependencyError(
            "reasoning_gym", "textenvs/ReasoningGym-v0", INSTALL
        ) from error
    return reasoning_gym


def dataset_names() -> tuple[str, ...]:
    """Return the names of reasoning-gym's datasets, sorted."""
    return tuple(sorted(package().factory.DATASETS))


class ReasoningGymDataset:
    """One generator of reasoning-gym with its verifier."""

    def __init__(self, name: str, config: Mapping[str, Any] | None = None, seed: int = 0) -> None:
        """Create the generator.

        Args:
            name: As in `dataset_names`.
            config: Options of the generator, JSON-able: dates as ISO text, enumerations by
                value, the parts of "composite" as mappings.
            seed: Of the generator; entry i depends on seed + i.

        Raises:
            UnknownNameError: if the dataset or one of its options is unknown.
            ConfigError: if the generator refuses the options.
        """
        registry = package().factory.DATASETS
        if name not in registry:
            raise UnknownNameError("dataset of reasoning-gym", name, registry)
        self.name, self.seed = name, seed % POOL
        self.pool = SMALL_POOL if name in SMALL else POOL
        options = checked_config(name, registry[name][1], config or {})
        try:
            with contained(self.seed):
                self._dataset = package().create_dataset(
                    name, seed=self.seed, size=self.pool, **options
                )
        except (AssertionError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"the dataset {name!r} of reasoning-gym refuses the config {dict(config or {})!r}: "
                f"{error}"
            ) from error

    def entry(self, index: int) -> dict[str, Any]:
        """Return the task of an index in [0, `pool`): question, answer, metadata."""
        with contained(self.seed + index):
            entry: dict[str, Any] = self._dataset[index]
        return entry

    def score(self, answer: str, entry: Mapping[str, Any]) -> float | None:
        """Return what the verifier pays an answer, in [0, 1]; None if it failed on it.

        An answer of more than `ANSWER_LIMIT` characters and `ANSWER_FACTOR` times the right
        one is worth 0 unseen. One that must not be evaluated is shown as `UNREADABLE`.
        """
        reference = right_answer(entry) or ""
        if len(answer) > max(ANSWER_LIMIT, ANSWER_FACTOR * len(reference)):
            return 0.0
        # The verifier of "composite" is that of the part the entry comes from.
        verifiers = {self.name, str(entry["metadata"].get("source_dataset"))}
        shown = answer if all(harmless(name, answer) for name in verifiers) else UNREADABLE
        try:
            # A copy, because some verifiers write into the entry.
            with contained(0):
                paid = self._dataset.score_answer(shown, copy.deepcopy(dict(entry)))
            value = math.nan if paid is None else float(paid)
        except Exception:  # what it raises depends on the model's text; the episode is unscored
            return None
        return None if math.isnan(value) else min(max(value, 0.0), 1.0)


def right_answer(entry: Mapping[str, Any]) -> str | None:
    """Return a right answer of an entry, or None where reasoning-gym gives none."""
    if entry["answer"] is not None:
        return str(entry["answer"])
    metadata = entry["metadata"]
    for name in ANSWERS_BESIDE:
        if metadata.get(name) is not None:
            found = metadata[name]
            # A mapping (graph_color) is read as JSON, whose keys are text.
            return json.dumps(dict(found)) if isinstance(found, Mapping) else str(found)
    return None


@contextmanager
def contained(seed: int) -> Iterator[None]:
    """Run foreign code with the global generators seeded, then put them back.

    Two datasets draw from the global generators of `random` and numpy, and sympy's
    simplification from its own; some warn or print. None of it gets out, and none of the
    caller's randomness gets in. The global state is the process's, so this is for one thread.
    """
    from sympy.core import random as sympy_random

    kept = random.getstate(), np.random.get_state(), sympy_random.rng.getstate()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    sympy_random.rng.seed(seed)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        sympy_random.rng.setstate(kept[2])


def checked_config(name: str, config_class: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a generator with JSON values made what its config expects.

    Raises:
        UnknownNameError: if an option is unknown.
        ConfigError: if an option is one of ours, or a value cannot be converted.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"config must be a mapping of options of {name!r}, got {config!r:.80}")
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    ours = {"seed": "prompt_seed", "size": "n_prompts"}
    options = {}
    for option, value in config.items():
        if option in ours:
            raise ConfigError(
                f"config holds {option!r}; pass {ours[option]} to the environment instead"
            )
        if option not in fields:
            raise UnknownNameError(f"option of the dataset {name!r}", option, set(fields) - {*ours})
        try:
            options[option] = _converted(value, _default(fields[option]), option)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config option {option!r} cannot be {value!r}: {error}") from error
    return options


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _converted(value: Any, default: Any, option: str) -> Any:
    """Return a JSON value as the type of an option's default."""
    if option == "datasets" and isinstance(value, Sequence):
        spec = package().composite.DatasetSpec
        return [spec(**{"weight": 1.0, "config": {}, **part}) for part in value]
    if isinstance(default, (datetime.date, datetime.time)) and isinstance(value, str):
        return type(default).fromisoformat(value)
    if isinstance(default, enum.Enum):
        return type(default)(value)
    if dataclasses.is_dataclass(default) and isinstance(value, Mapping):
        return dataclasses.replace(default, **value)  # type: ignore[type-var]
    if isinstance(default, (list, tuple)) and isinstance(value, (list, tuple)):
        kind = type(default[0]) if default else None
        parts = [kind(v) if kind and issubclass(kind, enum.Enum) else v for v in value]
        return type(default)(parts)
    return value
