"""`audit`: everything there is to try on a reward."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from textenvs.audit.best_of_n import best_of_n_rows
from textenvs.audit.controls import control_rows, reference_rows
from textenvs.audit.findings import Kind, Report, Row
from textenvs.audit.probes import probe_rows
from textenvs.audit.property_rows import property_rows
from textenvs.audit.search import search_rows
from textenvs.audit.subject import Subject, make_subject
from textenvs.audit.worthless import worthless_rows
from textenvs.errors import ConfigError, MissingDependencyError, ModelError, UnknownNameError

SAMPLED_PROMPTS = 48
"""Prompts of the sample; search and properties look at the first few."""

Part = Callable[..., list[Row]]
STATUS_ORDER = ("fault", "note", "ok", "skipped")


def audit(
    id_or_env: Any,
    reward: Any = None,
    *,
    seed: int = 0,
    n_prompts: int = SAMPLED_PROMPTS,
    gold: str | None = None,
    reference: Any = "tiny-lm",
    search: bool | Mapping[str, Any] = True,
    properties: bool | Mapping[str, Any] = True,
    **options: Any,
) -> Report:
    """Try to game a reward: scripted exploits, null controls, laws, and a search.

    ```python
    from textenvs.audit import audit

    report = audit("textenvs/ContextSelect-v0", reward=my_reward)
    assert report.ok, report.failures
    ```

    An exploit is a fault where it is paid like an honest answer that is worth more by the
    gold measure. Where no right answer is known, only what is worth nothing in any task can
    be told from one. See `textenvs.audit.verdicts` for the margins and `textenvs.audit.gold` for
    the measure.

    Args:
        id_or_env: An id, or a `TextEnv` or `TextVectorEnv`, wrapped or not.
        reward: Audited in place of the environment's own: a name, "module:object", a
            function of (prompt, completion), a `Reward`.
        seed: Of every random choice.
        n_prompts: How many prompts to answer, at least 1.
        gold: The environment's metric to measure answers by; None chooses.
        reference: Name or folder of a causal language model, whose own answers are a control
            and the start of best-of-n; None leaves both out. It must have the environment's
            tokenizer.
        search: Whether to search for exploits nobody scripted, or the options of
            `textenvs.audit.search.search_rows`.
        properties: Whether to try the laws, or the options of
            `textenvs.audit.property_rows.property_rows`.
        **options: Of the environment, where an id is given.

    Returns:
        The report, worst rows first; `report.ok` is False where a fault was found.

    Raises:
        UnknownNameError: if the id, the reward, the metric or an option is unknown.
        ConfigError: if an option is out of range, or it is no text environment.
        MissingDependencyError: if the environment or the reward needs an absent package.
    """
    subject = make_subject(
        id_or_env, reward, seed=seed, n_prompts=n_prompts, gold=gold, options=options
    )
    rows: list[Row] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a reward; what matters of it is what it pays
        if subject.measured:
            rows += run_part("control", control_rows, subject)
            rows += run_part("probe", probe_rows, subject)
        else:
            rows += run_part("control", worthless_rows, subject)
        if properties is not False:
            rows += run_part("property", property_rows, subject, **_options(properties))
        if search is not False:
            rows += run_part("search", search_rows, subject, **_options(search))
        if search is not False and reference is not None and subject.measured:
            rows += run_part("control", reference_rows, subject, reference=reference)
            rows += run_part("search", best_of_n_rows, subject, reference=reference)
    ranked = tuple(sorted(rows, key=_rank))
    return Report(subject.name, ranked, subject.gold.words, len(subject.prompts))


def _rank(row: Row) -> tuple[int, bool, float]:
    """Return the place of a row: worst first, and a control before an exploit."""
    return (STATUS_ORDER.index(row.status), row.kind != "control", -(row.paid or 0.0))


def run_part(kind: Kind, part: Part, subject: Subject, **options: Any) -> list[Row]:
    """Return the rows of one part; whatever the reward raises is one of them."""
    try:
        return part(subject, subject.generator(part.__name__), **options)
    except (ConfigError, MissingDependencyError, ModelError, UnknownNameError):
        raise  # the user's mistake, and nothing about the reward
    except Exception as error:  # noqa: BLE001  a user's reward raises anything
        return [Row(kind, "fault", f"the reward raised {type(error).__name__}: {error}", kind)]


def _options(given: bool | Mapping[str, Any]) -> dict[str, Any]:
    return {} if isinstance(given, bool) else dict(given)
