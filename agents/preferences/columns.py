"""The columns of a file of preferences: which there are, and whether they mean what they say."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from textenvs.errors import ConfigError, UnknownNameError

SCORE_WORDS = ("score", "rating", "reward")
SWAPPED_SHARE = 0.5
"""Where the scores of a file are against more than this share of its pairs, its columns are
swapped; below it, single rows are wrong."""


class RankedRow(NamedTuple):
    """A row: K answers to a prompt and their places, the least best."""

    prompt: str
    answers: tuple[str, ...]
    ranks: tuple[int, ...]
    group: str
    prompt_id: str


class Columns:
    """Reads rows by the names of their columns, and compares pairs with their scores."""

    def __init__(
        self, file: str, prompt: str, chosen: str, rejected: str, group: str = "group"
    ) -> None:
        """Keep the names.

        Args:
            file: Its name, for messages.
            prompt: Column of the prompt.
            chosen: Column of the better answer.
            rejected: Column of the worse one.
            group: Column of the unit of splitting, which need not be there.

        Raises:
            ConfigError: if two columns have one name.
        """
        if len({prompt, chosen, rejected}) < 3:
            raise ConfigError(
                "the prompt, the chosen and the rejected answer must stand in three columns, "
                f"got {prompt!r}, {chosen!r} and {rejected!r}"
            )
        self.file, self.prompt, self.group = file, prompt, group
        self.chosen, self.rejected = chosen, rejected
        self._against = self._scored = 0

    def check(self, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Refuse a file without the columns it needs, or with swapped ones.

        Raises:
            UnknownNameError: naming a column that no row has.
            ConfigError: if scores in the file say that most pairs are the wrong way round.
        """
        known = {name for _, cells in rows for name in cells}
        pairs = not {"answers", "ranks"} <= known
        options = {"prompt_column": self.prompt}
        if pairs:
            options |= {"chosen_column": self.chosen, "rejected_column": self.rejected}
        for option, column in options.items():
            if rows and column not in known:
                flag = option.replace("_", "-")
                raise UnknownNameError(
                    f"column of {self.file!r}", column, known, f"Name it: {option} (--{flag})."
                )
        for better, worse in self._scores(rows):
            self._scored += 1
            self._against += better < worse
        if self._against > SWAPPED_SHARE * self._scored:
            raise ConfigError(
                f"{self.file!r}: {self._against} of {self._scored} pairs have a lower score for "
                f"{self.chosen!r} than for {self.rejected!r}, so the columns look swapped; "
                f"pass chosen_column={self.rejected!r} and rejected_column={self.chosen!r}, or "
                "take the scores out of the file"
            )

    def notes(self) -> tuple[str, ...]:
        """Return what the scores say against the pairs, if anything."""
        if not self._against:
            return ()
        return (
            f"{self._against} of {self._scored} pairs are against the scores of the file: the "
            "chosen answer has the lower one",
        )

    def ranked(self, where: str, cells: Mapping[str, Any]) -> RankedRow:
        """Return what a row says.

        Args:
            where: "line 3" or "row 3", for messages.
            cells: Column -> value.

        Raises:
            ConfigError: if a cell is missing or of the wrong kind.
        """
        prompt = self._text(where, cells, self.prompt)
        group = self._text(where, cells, self.group) if cells.get(self.group) is not None else ""
        known = cells.get("prompt_id")
        prompt_id = "" if known is None else str(known)
        is_pair = cells.get("answers") is None and cells.get("ranks") is None
        answers, ranks = (self._pair if is_pair else self._places)(where, cells)
        return RankedRow(prompt, answers, ranks, group or prompt, prompt_id)

    def _pair(
        self, where: str, cells: Mapping[str, Any]
    ) -> tuple[tuple[str, ...], tuple[int, ...]]:
        chosen = self._text(where, cells, self.chosen)
        rejected = self._text(where, cells, self.rejected)
        return (chosen, rejected), (0, int(chosen != rejected))

    def _places(
        self, where: str, cells: Mapping[str, Any]
    ) -> tuple[tuple[str, ...], tuple[int, ...]]:
        answers, ranks = cells.get("answers"), cells.get("ranks")
        if not isinstance(answers, list) or not all(isinstance(text, str) for text in answers):
            raise self._wrong(where, "answers", "a list of texts", answers)
        if not isinstance(ranks, list) or not all(type(r) is int and r >= 0 for r in ranks):
            raise self._wrong(where, "ranks", "a list of whole numbers from 0 (best)", ranks)
        if len(answers) != len(ranks):
            raise ConfigError(
                f"{self.file!r}, {where}: {len(answers)} answers have {len(ranks)} ranks; give "
                "one rank an answer"
            )
        return tuple(answers), tuple(ranks)

    def _text(self, where: str, cells: Mapping[str, Any], column: str) -> str:
        if column not in cells:
            raise ConfigError(
                f"{self.file!r}, {where}: there is no {column!r}; fill it in or leave the row out"
            )
        value = cells[column]
        if not isinstance(value, str):
            raise self._wrong(where, column, "a text", value)
        return value

    def _wrong(self, where: str, column: str, rule: str, value: Any) -> ConfigError:
        return ConfigError(
            f"{self.file!r}, {where}: {column!r} must be {rule}, got {value!r:.80}; correct the "
            "row or leave it out"
        )

    def _scores(
        self, rows: Sequence[tuple[str, Mapping[str, Any]]]
    ) -> Iterator[tuple[float, float]]:
        """Yield the scores of the chosen and the rejected answer, where a row has both."""
        known = {name for _, cells in rows for name in cells}
        names = [(f"{self.chosen}_{w}", f"{self.rejected}_{w}") for w in SCORE_WORDS]
        names += [(f"{w}_{self.chosen}", f"{w}_{self.rejected}") for w in SCORE_WORDS]
        for better, worse in names:
            if better in known and worse in known:
                for _, cells in rows:
                    scores = (_number(cells.get(better)), _number(cells.get(worse)))
                    if scores[0] is not None and scores[1] is not None:
                        yield scores[0], scores[1]
                return


def _number(value: Any) -> float | None:
    """Return a cell as a number, None where it is none; NaN compares with nothing."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
