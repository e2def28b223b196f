r"""`FinalAnswer`: the result at the end of some reasoning, as a number or a short text.

The forms are those of GSM8K ("#### 42"; Cobbe et al., arXiv:2110.14168) and MATH
("\boxed{42}"; Hendrycks et al., arXiv:2103.03874), and "the answer is 42".
"""

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Literal, get_args

from textenvs.errors import ConfigError, RewardError, UnknownNameError
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.rewards.grounding.answer_match import TURNING_WORDS, answer_key
from textenvs.rewards.learned.similarity import references_of
from textenvs.types import Episode, Prompt

AnswerKind = Literal["number", "text"]
Where = Literal["marked", "last"]
CHARACTERS_READ, LONGEST_ANSWER = 20_000, 200
SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1_000,
    "million": 1_000_000,
    "billion": 1_000_000_000,
}
_MARKS = re.compile(
    r"(?P<hashes>####)|\\boxed\s*(?P<box>\{)|<answer>(?P<tag>)"
    r"|(?P<says>\banswer\s*(?:is\b\s*:?|:|=))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d{1,3})?"
_NUMBER = re.compile(
    rf"(?:[^\W\d_]{{0,3}}\s*=\s*)?(?P<sign>[-+]?)\s*(?P<top>{_DIGITS})(?:\s*/\s*(?P<bottom>{_DIGITS}))?"
    r"\s*%?\s*(?P<unit>[^\W\d_]+(?:[ /-][^\W\d_]+){0,3})?\s*\.?",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(rf"(?:(?<![\w.)])-)?{_DIGITS}(?:/{_DIGITS})?", re.IGNORECASE)
_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"\1/\2"),
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[()\[\],!;]|\\?[$*`]|\\(?=%)"), ""),
)


class FinalAnswer(BaseReward):
    r"""1 if the final answer is that of the reference, else 0; an empty answer gets 0.

    The final answer is what stands behind the last mark: "####", "\boxed{...}",
    "<answer>...</answer>", "answer is" or "answer:". A text without a mark is all final
    answer, so that a bare "42" counts.

    - `"number"`: compared as numbers, exactly. "1,000", "$1000", "1000.0", "1000 dollars", "1
      thousand", "2000/2" and "\frac{2000}{2}" are the same; a percent sign and the name of the
      unit are not compared. "42 or 43", "not 42" and "40 + 2" are no numbers.
    - `"text"`: compared in the form of `answer_key`: case, punctuation and articles do not
      count. Formulas are compared as text, so that "x+1" is not "1+x".

    The reference is `metadata["references"]`, any of them, or the prompt's reference; of a
    worked solution its final answer counts. Only that is read: the reasoning may be any
    text. Where answers are few, guessing pays: compare with the score of the commonest.
    """

    def __init__(
        self, kind: AnswerKind = "number", *, where: Where = "marked", tolerance: float = 0.0
    ) -> None:
        """Choose what is compared.

        Args:
            kind: "number" or "text".
            where: "marked", or "last": with numbers, where there is no mark, the last number
                of the text counts, whatever is said of it.
            tolerance: Relative to the reference, in [0, 1); for numbers.

        Raises:
            ConfigError: if the tolerance is out of range, or an option is not for texts.
            UnknownNameError: if `kind` or `where` is unknown.
        """
        for what, value, known in (("kind", kind, AnswerKind), ("where", where, Where)):
            if value not in get_args(known):
                raise UnknownNameError(f"{what} of final answer", value, get_args(known))
        if not 0 <= tolerance < 1:
            raise ConfigError(f"tolerance must be in [0, 1), got {tolerance}; the default is 0")
        if kind == "text" and (where == "last" or tolerance):
            raise ConfigError('where="last" and tolerance are for kind="number" alone')
        self.kind, self.where, self.tolerance = kind, where, float(tolerance)
        self.name = f"final_{kind}"

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch.

        Raises:
            RewardError: if a prompt has no reference, or one without a number.
        """
        return RewardResult.from_scores(self.name, [self._score(episode) for episode in episodes])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)

    def _score(self, episode: Episode) -> float:
        references = references_of(episode.prompt)
        if self.kind == "text":
            key = answer_key(final_text(episode.completion)[:LONGEST_ANSWER])
            return float(bool(key) and key in {answer_key(final_text(r)) for r in references})
        number = final_number(episode.completion, self.where)
        wanted = [self._reference_number(text, episode.prompt) for text in references]
        if number is None:
            return 0.0
        slack = Fraction(self.tolerance)
        return float(any(abs(number - right) <= slack * abs(right) for right in wanted))

    def _reference_number(self, reference: str, prompt: Prompt) -> Fraction:
        number = _cached_number(reference, self.where)
        if number is None:
            raise RewardError(
                f"the final answer of the reference {reference!r:.80} of the prompt {prompt.id!r} "
                'is no number; give it one, behind "####" or alone, or use FinalAnswer("text")'
            )
        return number


def final_text(text: str) -> str:
    r"""Return what stands behind the last mark, or all of a text that has none.

    Behind "####" the rest of the line; in "\boxed{" and "<answer>" what is within; behind
    "answer is" the rest of the sentence. The last 20,000 characters are read.

    >>> final_text("The answer is 42. Good!"), final_text(r"So \boxed{x^{2}}."), final_text("7")
    ('42', 'x^{2}', '7')
    """
    text = text[-CHARACTERS_READ:]
    marks = list(_MARKS.finditer(text))
    if not marks:
        return text.strip()
    mark = marks[-1]
    rest = text[mark.end() :]
    if mark["box"]:
        return _within_braces(rest).strip()
    if mark["hashes"]:
        return rest.partition("\n")[0].strip()
    if mark["says"]:
        return _SENTENCE_END.split(rest.lstrip(), maxsplit=1)[0].strip()
    return re.split("</answer>", rest, maxsplit=1, flags=re.IGNORECASE)[0].strip()


def final_number(text: str, where: Where = "marked") -> Fraction | None:
    """Return the final answer of a text as a number; None if it is none.

    Args:
        text: Anything.
        where: "last" falls back on the last number of a text without a number at its mark.
    """
    number = parsed_number(final_text(text))
    if number is None and where == "last":
        numbers = _ANYWHERE.findall(_plain(text[-CHARACTERS_READ:]))
        number = parsed_number(numbers[-1]) if numbers else None
    return number


def parsed_number(text: str) -> Fraction | None:
    """Return the one number that a short text states, exactly; None if it states none.

    >>> parsed_number("$1,234.50"), parsed_number("-3/4 cup"), parsed_number("42 or 43")
    (Fraction(2469, 2), Fraction(-3, 4), None)
    """
    if len(text) > LONGEST_ANSWER:
        return None
    match = _NUMBER.fullmatch(_plain(text).strip())
    if match is None:
        return None
    unit = re.split("[ /-]", (match["unit"] or "").lower())
    # 10² is not 10 of the unit "²".
    if unit[0] and not unit[0][0].isalpha() or TURNING_WORDS.intersection(unit):
        return None
    number = _exact(match["top"]) * SCALES.get(unit[0], 1)
    if match["bottom"]:
        if not (bottom := _exact(match["bottom"])):
            return None
        number /= bottom
    return -number if match["sign"] == "-" else number


@lru_cache(maxsize=8192)
def _cached_number(reference: str, where: Where) -> Fraction | None:
    return final_number(reference, where)


def _exact(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def _within_braces(text: str) -> str:
    """Return a text up to the brace that closes it; "" if none does."""
    depth = 1
    for i, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if not depth:
            return text[:i]
    return ""


def _plain(text: str) -> str:
    """Return a text without LaTeX, Markdown and currencies, digits and minus signs as ASCII."""
    plain = text if text.isascii() else "".join(map(_folded_character, text))
    for pattern, replacement in _LATEX:
        plain = pattern.sub(replacement, plain)
    return plain


def _folded_character(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    category = unicodedata.category(character)
    if character == "\u2212" or category == "Pd":
        return "-"
    return "$" if category == "Sc" else character
