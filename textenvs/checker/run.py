"""`check`: every check there is, on one environment."""

import warnings
from typing import Any

from textenvs.checker.contract import check_contract, check_playable, check_render, check_spaces
from textenvs.checker.infos import check_info
from textenvs.checker.observations import check_leaks
from textenvs.checker.repeats import check_determinism, check_replay
from textenvs.checker.report import Fault, Report, Row, Skipped
from textenvs.checker.scores import check_budget, check_ceiling, check_floor, check_reward
from textenvs.checker.sharing import check_sharing
from textenvs.checker.splits import check_splits
from textenvs.checker.study import Check, Study, fault, skipped
from textenvs.checker.subject import Subject, subject_of
from textenvs.checker.vectors import check_batch, check_company, check_groups
from textenvs.errors import ConfigError, MissingDependencyError, TextEnvsError

SAMPLED_PROMPTS = 32
"""Prompts the checks of the reward look at."""

SOUND = ("spaces", "leaks", "determinism")
"""Without these, comparing whole plays would name the same faults again."""

CHECKS = (
    Check("playable", check_playable),
    Check("contract", check_contract, ("playable",)),
    Check("spaces", check_spaces, ("playable",)),
    Check("leaks", check_leaks, ("playable",)),
    Check("determinism", check_determinism, ("playable",)),
    Check("replay", check_replay, ("playable", "info", *SOUND)),
    Check("batch", check_batch, ("playable", "info", "replay", "sharing", *SOUND)),
    Check("company", check_company, ("determinism",)),
    Check("sharing", check_sharing, ("playable",)),
    Check("info", check_info, ("playable",)),
    Check("reward", check_reward),
    Check("oracle/ceiling", check_ceiling),
    Check("oracle/budget", check_budget, ("playable", "determinism", "replay", "info")),
    Check("floor", check_floor),
    Check("splits", check_splits),
    Check("groups", check_groups, ("playable", *SOUND)),
    Check("render", check_render, ("playable",)),
)
"""In the order of the report; a check waits for those it needs."""


def check(
    id_or_env: Any, *, seed: int = 0, sampled_prompts: int = SAMPLED_PROMPTS, **options: Any
) -> Report:
    """Check an environment: contract, leaks, determinism, batches, reward, splits.

    ```python
    from textenvs.checker import check

    report = check("textenvs/ContextSelect-v0", n_items=8)
    assert report.ok, report.failures
    ```

    Args:
        id_or_env: An id, a `TextEnv` or `TextVectorEnv` (a subclass of it, or wrapped), or any
            `gymnasium.Env` with the same observations and infos. Wrappers are taken off.
        seed: Of every random choice.
        sampled_prompts: How many prompts the checks of the reward look at, at least 1.
        **options: Of the environment, where an id is given.

    Raises:
        UnknownNameError: if the id, or an option, is unknown.
        ConfigError: if an option is out of range, or it is no environment.
        MissingDependencyError: if the environment needs a package that is not installed.
    """
    if sampled_prompts < 1:
        raise ConfigError(f"sampled_prompts must be at least 1, got {sampled_prompts}")
    subject = subject_of(id_or_env, options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the contract check turns them into rows
        made = _made(subject)
        if made is not None:
            return Report(subject.name, (made,))
        return Report(subject.name, _rows(Study(subject, seed, sampled_prompts)))


def _made(subject: Subject) -> Row | None:
    """Return a fault if the environment cannot be made.

    What the user's options broke is the user's mistake, and raised.
    """
    try:
        subject.fresh()
    except MissingDependencyError:
        raise
    except Exception as error:  # noqa: BLE001  a third party's constructor raises anything
        if isinstance(error, TextEnvsError) and subject.options:
            raise
        return fault("made", f"it cannot be made: {_words(error)}")
    return None


def _rows(study: Study) -> tuple[Row, ...]:
    """Run every check once those it needs have run; return the rows in the order of `CHECKS`."""
    done: dict[str, list[Row]] = {}
    waiting = list(CHECKS)
    while waiting:
        ready = next(c for c in waiting if not {w.name for w in waiting} & set(c.needs))
        waiting.remove(ready)
        done[ready.name] = run_check(ready, study, done)
    return tuple(row for one in CHECKS for row in done[one.name])


def run_check(one: Check, study: Study, done: dict[str, list[Row]]) -> list[Row]:
    """Return the rows of one check; whatever the environment raises is one of them.

    Args:
        one: The check.
        study: What it is given.
        done: Rows of the checks that were made before, by name.
    """
    for need in one.needs:
        if any(row.status == "fault" for row in done.get(need, ())):
            return [skipped(one.name, f"not tried, since {need!r} is at fault")]
    rows: list[Row] = []
    try:
        rows.extend(one.run(study))
    except Skipped as reason:
        rows.append(skipped(one.name, str(reason)))
    except Fault as finding:
        rows.append(fault(one.name, str(finding)))
    except Exception as error:  # noqa: BLE001  the environment's error is the finding
        rows.append(fault(one.name, f"raised {_words(error)}"))
    return rows


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
