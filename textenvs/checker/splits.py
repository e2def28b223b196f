"""Splits: train, validation and test are there, and share nothing."""

import itertools
from typing import Any

import numpy as np

from textenvs.checker.report import Rows, Skipped
from textenvs.checker.study import Study, note, ok, verdict
from textenvs.checker.subject import prompts_of
from textenvs.errors import UnknownNameError
from textenvs.prompts import SPLITS, normalise
from textenvs.types import Prompt, Split

SAMPLE = 500
"""Prompts looked at in each split: a tenth of them in two splits is found all but surely."""


def check_splits(study: Study) -> Rows:
    """No group and no prompt text stands in two splits."""
    found: dict[Split, list[Prompt]] = {}
    sizes = {}
    for split in SPLITS:
        env = _made(study, split)
        prompts = prompts_of(env)
        sizes[split] = len(prompts)
        size = min(SAMPLE, len(prompts))
        chosen = study.generator(f"split {split}").choice(len(prompts), size, replace=False)
        found[split] = [prompts[int(i)] for i in np.sort(chosen)]
    told = ", ".join(f"{sizes[split]:,} {split}" for split in SPLITS)
    yield ok("splits/sizes", told)
    texts = {split: {normalise(p.text) for p in prompts} for split, prompts in found.items()}
    if len(set(sizes.values())) == 1 and texts["train"] == texts["validation"] == texts["test"]:
        yield note(
            "splits/overlap",
            "every split is the same prompts; there are too few to split, or nothing to hold out",
        )
        return
    groups = {split: {p.group for p in prompts if p.group} for split, prompts in found.items()}
    for what, sets in (("groups", groups), ("texts", texts)):
        wrong = None
        for one, two in itertools.combinations(SPLITS, 2):
            both = sets[one] & sets[two]
            if both:
                wrong = wrong or (
                    f"{len(both)} {what} of the {one} split are in the {two} split too: "
                    f"{min(both)!r:.80}"
                )
        sampled = max(map(len, found.values()))
        yield verdict(f"splits/{what}", wrong, f"none in two splits (up to {sampled} of each)")


def _made(study: Study, split: Split) -> Any:
    """Return the environment of a split.

    Raises:
        Skipped: if the environment has no option `split`.
    """
    try:
        return study.subject.remade(split=split)
    except UnknownNameError as error:
        if error.name == "split":
            raise Skipped("the environment has no option `split`") from error
        raise
    except TypeError as error:
        if "split" in str(error):
            raise Skipped("the environment has no option `split`") from error
        raise
