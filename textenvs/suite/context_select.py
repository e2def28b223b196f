"""`textenvs/ContextSelect-v0`: answer only with items of the list.

A list of titles with categories stands in the prompt; the answer is the titles of one
category, one a line. Titles are split by hash, so that a title of the test split is in
no training prompt, neither asked for nor listed.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np

from textenvs.corpora import load_items, require_items
from textenvs.errors import ConfigError, PromptError, UnknownNameError
from textenvs.options import checked_integer
from textenvs.prompts import SPLITS, GeneratedPrompts, checked_split, split_of, too_long
from textenvs.rewards.grounding.context_match import gold_metrics, oracle_answer
from textenvs.task_env import TaskEnv
from textenvs.tokenization import TINY_LM, TextTokenizer, load_tokenizer
from textenvs.types import Item, Prompt, Split

TEMPLATE = (
    "{items}\nAnswer with titles of the list only, one a line. "
    "Find the articles of category {category}:\n"
)
ITEM_TEMPLATE = "[{category}] {title}"
PROMPTS_PER_SPLIT: dict[Split, int] = {"train": 100_000, "validation": 1_000, "test": 1_000}
DRAWS = 16
PROBED, MISFITS_ALLOWED = 128, 0.05


class ContextSelectPrompts(GeneratedPrompts):
    """Lists of titles drawn from a corpus; same seed, split and index, same prompt.

    A draw that does not fit the prompt window, or whose answer does not fit the token
    budget, is drawn again, so that the oracle can always answer in full. Where most
    draws do not fit, the options are at fault and the constructor says so.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        split: Split,
        n_items: int,
        max_targets: int,
        size: int,
        seed: int,
        template: str,
        item_template: str,
        tokenizer: TextTokenizer,
        max_new_tokens: int,
    ) -> None:
        """Sort the items by category; see `context_select_task` for the options."""
        super().__init__(self._fitting, size, seed=(seed, SPLITS.index(split)))
        self.items, self.split, self.seed = tuple(items), split, seed
        self.n_items, self.max_targets = n_items, max_targets
        self.template, self.item_template = template, item_template
        self._tokenizer, self._max_new_tokens = tokenizer, max_new_tokens
        self._prompt_limit: int | None = None
        self._ids_of = lru_cache(maxsize=PROBED)(tokenizer.encode)  # asked for twice a prompt
        names = sorted({item.category for item in self.items})
        labels = np.array([names.index(item.category) for item in self.items])
        # A category can be asked for if the other categories fill the rest of the list.
        members = {name: np.flatnonzero(labels == i) for i, name in enumerate(names)}
        least = {name: n_items - (len(self.items) - len(rows)) for name, rows in members.items()}
        self._members = {n: rows for n, rows in members.items() if least[n] <= max_targets}
        self._others = {
            n: np.setdiff1d(np.arange(len(labels)), r) for n, r in self._members.items()
        }
        if not self._members:
            raise ConfigError(
                f"no category of the {split} split can be asked for with n_items {n_items} and "
                f"max_targets {max_targets}; lower n_items or bring a larger corpus"
            )
        self._fit_answers = True
        probed = [self[i] for i in range(min(PROBED, size))]
        unfit = sum(not self._answer_fits(prompt) for prompt in probed)
        self._fit_answers = unfit <= len(probed) / 2

    def _fitting(self, index: int, generator: np.random.Generator) -> Prompt:
        """Return the first draw that fits, or the last one tried."""
        prompt = self._draw(index, generator)
        for _ in range(DRAWS):
            if self._fits(prompt):
                break
            prompt = self._draw(index, generator)
        return prompt

    def _draw(self, index: int, generator: np.random.Generator) -> Prompt:
        category = list(self._members)[int(generator.integers(len(self._members)))]
        members, others = self._members[category], self._others[category]
        least = max(1, self.n_items - len(others))
        most = min(self.max_targets, len(members), self.n_items - 1)
        n_targets = int(generator.integers(least, most + 1))
        chosen = np.concatenate(
            [
                generator.choice(members, n_targets, replace=False),
                generator.choice(others, self.n_items - n_targets, replace=False),
            ]
        )
        context = tuple(self.items[i] for i in generator.permutation(chosen))
        lines = [self.item_template.format(title=i.title, category=i.category) for i in context]
        text = self.template.format(items="\n".join(lines), category=category, n=len(lines))
        prompt_id = f"{self.split}-{self.seed}-{index}"
        metadata = {"category": category, "n_targets": n_targets, "split": self.split}
        reference = "\n".join(item.title for item in context if item.category == category)
        return Prompt(prompt_id, text, context, reference, prompt_id, metadata)

    def _fits(self, prompt: Prompt) -> bool:
        if self._prompt_limit is not None:
            if len(self._ids_of(prompt.text)) > self._prompt_limit:
                return False
        return not self._fit_answers or self._answer_fits(prompt)

    def _answer_fits(self, prompt: Prompt) -> bool:
        answer = self._tokenizer.encode_completion(prompt.reference or "")
        return len(answer) < self._max_new_tokens  # one token is left for EOS

    def encode(self, tokenizer: TextTokenizer, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the ids the policy reads of some of these prompts."""
        if tokenizer is not self._tokenizer:
            return super().encode(tokenizer, prompts)
        return [self._ids_of(prompt.text) for prompt in prompts]

    def check_lengths(self, tokenizer: TextTokenizer, limit: int) -> None:
        """Refuse options with which prompts of the first draw do not fit.

        Rare misfits are drawn again; more than 5% of misfits is an error.
        """
        self._prompt_limit = None
        probed = [self[i] for i in range(min(PROBED, self._size))]
        lengths = [len(ids) for ids in self.encode(tokenizer, probed)]
        misfits = [i for i, length in enumerate(lengths) if length > limit]
        if len(misfits) > MISFITS_ALLOWED * len(probed):
            longest = int(np.argmax(lengths))
            raise too_long(probed[longest], lengths[longest], limit)
        self._prompt_limit = limit


def context_select_task(
    *,
    corpus: Any = "films",
    n_items: int = 30,
    max_targets: int = 3,
    split: Split = "train",
    n_prompts: int | None = None,
    prompt_seed: int = 0,
    template: str = TEMPLATE,
    item_template: str = ITEM_TEMPLATE,
    title_column: str = "title",
    category_column: str = "category",
    duplicates: str = "error",
    tokenizer: Any = TINY_LM,
    reward: Any = "context-match",
    max_prompt_tokens: int = 512,
    max_new_tokens: int = 32,
    overlong: str = "error",
) -> dict[str, Any]:
    """Return the arguments of `TextEnv` for this task.

    Args:
        corpus: `"films"`, `"bbc-news"`, a file, a `datasets.Dataset`, rows.
        n_items: Titles in the list, at least 2.
        max_targets: The most titles of the asked category, at least 1; each prompt has
            between 1 and this many.
        split: "train", "validation" or "test", by title.
        n_prompts: Prompts of the split; None means 100,000 for training, 1,000 elsewhere.
        prompt_seed: Chooses another sequence of lists over the same titles.
        template: Wording, with the fields {items}, {category} and, optionally, {n}.
        item_template: One line of the list, with the fields {title} and {category}.
        title_column: Column of a file or dataset.
        category_column: Column of a file or dataset.
        duplicates: "error" or "drop"; see `load_items`.
        tokenizer: Name, folder or object.
        reward: Name, function or object.
        max_prompt_tokens: Prompt columns.
        max_new_tokens: Token budget of an answer.
        overlong: "error" or "truncate".

    Raises:
        ConfigError: if an option is out of range.
        CorpusError: if the corpus cannot serve the task.
        UnknownNameError: if a name is unknown.
    """
    _check(n_items, max_targets, split, n_prompts, prompt_seed)
    _check_template("template", template, {"items", "category"}, {"n"})
    _check_template("item_template", item_template, {"title", "category"}, set())
    columns = {"title_column": title_column, "category_column": category_column}
    by_name = isinstance(corpus, str) and isinstance(tokenizer, str)
    source = (_source if by_name else _source.__wrapped__)(
        corpus,
        tuple(columns.items()),
        duplicates,
        split=split,
        n_items=n_items,
        max_targets=max_targets,
        size=PROMPTS_PER_SPLIT[split] if n_prompts is None else n_prompts,
        seed=prompt_seed,
        template=template,
        item_template=item_template,
        tokenizer=tokenizer,
        max_new_tokens=max_new_tokens,
        fit_within=max_prompt_tokens if overlong == "error" else None,
        stamp=_stamp(corpus),
    )
    return {
        "prompts": source,
        "reward": reward,
        "tokenizer": tokenizer,
        "max_prompt_tokens": max_prompt_tokens,
        "max_new_tokens": max_new_tokens,
        "overlong": overlong,
        "metrics": gold_metrics,
        "oracle": oracle_answer,
        "probes": exploits,
    }


def exploits(prompt: Prompt) -> dict[str, str]:
    """Return answers that name much, or nothing that was asked for, by name."""
    titles = [item.title for item in prompt.context]
    asked = prompt.metadata["category"]
    wrong = [item.title for item in prompt.context if item.category != asked]
    return {
        "every title": "\n".join(titles),
        "every title on one line": " ".join(titles),
        "a title of another category": wrong[0],
        "every title of other categories": "\n".join(wrong),
        "the list with its categories": prompt.text,
        "the name of the category": asked,
        "an invented title": f"The {asked} of {titles[0].split()[-1]}",
    }


@lru_cache(maxsize=32)
def _source(
    corpus: Any,
    columns: tuple[tuple[str, str], ...],
    duplicates: str,
    *,
    split: Split,
    n_items: int,
    tokenizer: Any,
    fit_within: int | None,
    stamp: tuple[int, int] | None,
    **options: Any,
) -> ContextSelectPrompts:
    """Build the prompts; those named by strings alone are built once per process.

    `fit_within` is part of the key because `check_lengths` settles it per source, `stamp`
    because a file may change.
    """
    items = load_items(corpus, duplicates=duplicates, **dict(columns))
    kept = require_items((i for i in items if split_of(i.title) == split), n_items, split)
    loaded = load_tokenizer(tokenizer)
    return ContextSelectPrompts(kept, split=split, n_items=n_items, tokenizer=loaded, **options)


def _stamp(corpus: Any) -> tuple[int, int] | None:
    """Return what changes when the file of a corpus does; None for anything but a file."""
    if not isinstance(corpus, str) or not Path(corpus).is_file():
        return None
    status = Path(corpus).stat()
    return (status.st_mtime_ns, status.st_size)


def _check(n_items: Any, max_targets: Any, split: Any, n_prompts: Any, seed: Any) -> None:
    checked_split(split)
    checked_integer("n_items", n_items, 2, 30)
    checked_integer("max_targets", max_targets, 1, 3)
    if n_prompts is not None and (not isinstance(n_prompts, int) or n_prompts < 1):
        raise PromptError(f"n_prompts must be at least 1, got {n_prompts!r}")
    if not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"prompt_seed must be a non-negative integer, got {seed!r}")


def _check_template(name: str, template: str, needed: set[str], optional: set[str]) -> None:
    try:
        fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise ConfigError(f"{name} is no format string: {error}; write {{{{ for a brace") from error
    for field in sorted(fields - needed - optional):
        raise UnknownNameError(f"field of {name}", field, needed | optional)
    for field in sorted(needed - fields):
        raise ConfigError(f"{name} lacks the field {{{field}}}; it must hold {sorted(needed)}")
    try:
        template.format(**{**dict.fromkeys(needed, "text"), "n": 1})
    except ValueError as error:  # a conversion or a format that text does not have
        raise ConfigError(f"{name} cannot be filled in: {error}; write plain {{fields}}") from error


class ContextSelectEnv(TaskEnv):
    """Select the titles of one category from a list of titles with categories.

    Observation and action: as in `TextEnv`. Reward: `ContextMatch`, per answer line +1 for
    a listed title of the asked category, -1 for anything else. Ends at EOS or when the
    token budget is spent. Options: see `context_select_task`.

    Version history: v0, first version.
    """

    task = staticmethod(context_select_task)


make_vec = ContextSelectEnv.make_vec
