"""`ContextMatch`: answer only with items of the list in the prompt.

Each line of an answer is compared with the listed items by fuzzy matching, so that a
slip of one letter is forgiven and an invention is not. The published experiment paid
+1 for a title of the list and -1 for any other; here the category counts as well, and
an item pays once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from textenvs.errors import ConfigError, RewardError, UnknownNameError
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.rewards.grounding.fuzzy_scorers import WHOLE_SCORERS, scorer_named
from textenvs.rewards.grounding.title_match import Menu, forced_match, match, menu_of, title_key
from textenvs.types import Episode, Prompt

Scoring = Literal["count", "f1", "first"]
FUZZY_LINES_PER_ITEM = 4
"""Lines beyond this many per listed item are matched exactly only: the cost of a
hostile answer stays linear in its length."""


@dataclass(frozen=True, slots=True)
class Judged:
    """How the lines of one answer were judged.

    Attributes:
        hits: One entry a non-empty line: the index of the item it names, or -1.
        exact: Different items of the asked category that a line names letter for letter.
        right: Different items of the asked category that were named.
        targets: Different items of the asked category that are listed.
        first_is_right: The first line names one of them.
    """

    hits: tuple[int, ...]
    exact: int
    right: int
    targets: int
    first_is_right: bool

    @property
    def wrong(self) -> int:
        """Lines that earned nothing: inventions, wrong category, repetitions."""
        return len(self.hits) - self.right


class ContextMatch(BaseReward):
    """Score an answer of one title a line against the items listed in the prompt.

    A line names an item if their normal forms are equal, or have a `rapidfuzz.fuzz.ratio` of
    at least `threshold` and differ by slips of the pen alone (`title_match.is_misspelling`):
    "Part 2" is not "Part 3", "Rocky II" not "Rocky III", and a "not" or another whole word
    makes another title. It is right if the item has the asked category and was not named
    before; every other line is wrong. With K different items of the asked category listed:

    - `"count"`: right - wrong, the published +1/-1 counted per line, not below -K; an
      empty answer gets -K - 1. Range [-K - 1, K].
    - `"f1"`: the F1 score of the set of items, in [0, 1]; an empty answer gets -1.
    - `"first"`: +1 if the first line is right, else -1; an empty answer gets -2.

    So an empty answer is always strictly the worst one. Lines with nothing to see, such as
    zero-width characters, are no lines.
    """

    name = "context_match"

    def __init__(
        self,
        threshold: float = 90.0,
        scoring: Scoring = "count",
        *,
        scorer: str = "ratio",
        force: bool = False,
    ) -> None:
        """Choose how near is near enough, and how lines become a score.

        Args:
            threshold: Least similarity, in (0, 100].
            scoring: "count", "f1" or "first".
            scorer: Of `rapidfuzz.fuzz`; see `textenvs.rewards.grounding.fuzzy_scorers`.
            force: Take a scorer that rewards invention. It then judges alone: the rules on
                numbers, negations and words would undo it.

        Raises:
            ConfigError: if the threshold is out of range, or the scorer rewards invention.
            UnknownNameError: if the scoring or the scorer is unknown.
        """
        if not 0 < threshold <= 100:
            raise ConfigError(
                f"threshold must be above 0 and at most 100, got {threshold}; the default is 90"
            )
        if scoring not in get_args(Scoring):
            raise UnknownNameError("scoring", scoring, get_args(Scoring))
        unfit = scorer_named(scorer, force=force)
        self._forced = None if scorer in WHOLE_SCORERS else unfit
        self.threshold, self.scoring, self.scorer = float(threshold), scoring, scorer

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        scores = [self._score(episode) for episode in episodes]
        return RewardResult.from_scores(self.name, scores)

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the least and the greatest score an answer to this prompt can get."""
        asked = _asked(_context(prompt), prompt.metadata.get("category"))
        targets = max(1, len(asked.wanted))
        return {
            "count": (-targets - 1.0, float(targets)),
            "f1": (-1.0, 1.0),
            "first": (-2.0, 1.0),
        }[self.scoring]

    def judge(self, prompt: Prompt, completion: str) -> Judged:
        """Return which item each line names, and how many are right."""
        asked = prompt.metadata.get("category")
        return _judge(_context(prompt), asked, completion, self.threshold, self._forced)

    def _score(self, episode: Episode) -> float:
        judged = self.judge(episode.prompt, episode.completion)
        targets = max(1, judged.targets)
        if not judged.hits:
            return {"count": -targets - 1.0, "f1": -1.0, "first": -2.0}[self.scoring]
        if self.scoring == "count":
            return float(max(judged.right - judged.wrong, -targets))
        if self.scoring == "f1":
            return 2.0 * judged.right / (len(judged.hits) + targets)
        return 1.0 if judged.first_is_right else -1.0


@lru_cache(maxsize=4096)
def _judge(
    context: tuple[Any, ...],
    asked: Any,
    completion: str,
    threshold: float,
    forced: Callable[..., float] | None,
) -> Judged:
    """Judge an answer once, for the reward and for the gold metrics."""
    menu, wanted, spelled = _asked(context, asked)
    hits: list[int] = []
    known: dict[str, int | None] = {}
    for line in completion.splitlines():
        if line not in known:
            key = title_key(line)
            is_fuzzy = len(hits) < FUZZY_LINES_PER_ITEM * len(menu.titles)
            if not key:
                known[line] = None
            elif forced is not None and is_fuzzy:
                known[line] = forced_match(key, menu, threshold, forced)
            else:
                known[line] = match(key, menu, threshold if is_fuzzy else 100.0)
        hit = known[line]
        if hit is not None:
            hits.append(hit)
    exact = {spelled[line.strip()] for line in known if line.strip() in spelled}
    named = [menu.titles[hit] if hit >= 0 else "" for hit in hits]
    return Judged(
        hits=tuple(hits),
        exact=len(exact & wanted),
        right=len(wanted.intersection(named)),
        targets=len(wanted),
        first_is_right=bool(named) and named[0] in wanted,
    )


def _context(prompt: Prompt) -> tuple[Any, ...]:
    """Return the listed items of a prompt.

    Raises:
        RewardError: if the prompt's context is no list of items.
    """
    if not isinstance(prompt.context, (tuple, list)) or not prompt.context:
        raise RewardError(
            f"the prompt {prompt.id!r} has no list to match against: its context is "
            f"{prompt.context!r:.80}; ContextMatch needs a tuple of Item(title, category) or of "
            "texts"
        )
    return tuple(prompt.context)


class Asked(NamedTuple):
    """A list, and what is asked for of it.

    Attributes:
        menu: The listed titles in comparison form.
        wanted: Normal forms of those that are asked for. A title that is listed twice,
            under two categories or in two spellings, is one title.
        spelled: Letter for letter -> normal form.
    """

    menu: Menu
    wanted: frozenset[str]
    spelled: dict[str, str]


@lru_cache(maxsize=4096)
def _asked(context: tuple[Any, ...], asked: Any) -> Asked:
    written = [title_of(item) for item in context]
    menu = menu_of(written)
    chosen = zip(menu.titles, _targets(context, asked), strict=True)
    wanted = frozenset(title for title, is_target in chosen if is_target and title)
    spelled = dict(zip((title.strip() for title in written), menu.titles, strict=True))
    return Asked(menu, wanted, spelled)


def targets_of(prompt: Prompt) -> tuple[bool, ...]:
    """Return, for each listed item, whether its category is the one asked for.

    A prompt that asks for no category accepts every listed item.
    """
    return _targets(_context(prompt), prompt.metadata.get("category"))


def _targets(context: tuple[Any, ...], asked: Any) -> tuple[bool, ...]:
    return tuple(asked is None or isinstance(i, str) or i.category == asked for i in context)


def title_of(item: Any) -> str:
    """Return the title of an `Item`, or a plain text itself."""
    return item if isinstance(item, str) else item.title


LISTED_THRESHOLD = 90.0
"""The fuzzy ratio of the published metric; fixed, whatever a reward's threshold is."""
GOLD_JUDGE = ContextMatch(LISTED_THRESHOLD)


def gold_metrics(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Return the measures a policy is judged by and never trained on.

    Lines are the non-empty lines of an answer; an empty answer gets 0 everywhere but in
    `empty`. Each is float64 [B] in [0, 1]:

    - `correct`: share of lines that are, letter for letter, a listed item of the asked
      category (a repeated item counts once).
    - `listed`: share of lines that name any listed item at a fuzzy ratio of 90, category
      ignored, repeats counted: the metric of the published experiment made stricter, for
      that forgave other numbers and whole words in long titles as well.
    - `precision`: share of lines that fuzzily name an item of the asked category.
    - `recall`: share of the items of the asked category that are fuzzily named.
    - `empty`: 1 if there is no line.
    - `copied_fraction`: share of all listed items that are fuzzily named; near 1 means
      the whole list was copied.
    """
    names = ("correct", "listed", "precision", "recall", "empty", "copied_fraction")
    rows = [_gold(episode) for episode in episodes]
    table = np.array(rows, np.float64).reshape(len(rows), len(names))
    return {name: table[:, i].copy() for i, name in enumerate(names)}


def _gold(episode: Episode) -> tuple[float, ...]:
    prompt = episode.prompt
    judged = GOLD_JUDGE.judge(prompt, episode.completion)
    lines = len(judged.hits)
    if not lines:
        return (0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    named = [hit for hit in judged.hits if hit >= 0]
    return (
        judged.exact / lines,
        len(named) / lines,
        judged.right / lines,
        judged.right / judged.targets if judged.targets else 0.0,
        0.0,
        len(set(named)) / len(prompt.context),
    )


def oracle_answer(prompt: Prompt) -> str:
    """Return the right answer: the items of the asked category, in list order."""
    wanted = zip(prompt.context, targets_of(prompt), strict=True)
    return "\n".join(title_of(item) for item, is_target in wanted if is_target)
