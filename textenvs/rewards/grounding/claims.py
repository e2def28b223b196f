"""Claims: how a free text is cut into statements, and a statement into comparable words.

Case, width and invisible characters make no difference to any of it. Numbers get one
spelling, negations are counted, and a character of a script without spaces is a word.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import NamedTuple

from textenvs.prompts import normalise
from textenvs.rewards.classic.sentiment import FUNCTION_WORDS
from textenvs.rewards.classic.words import ngrams
from textenvs.rewards.grounding.plain_text import IDEOGRAPHIC, symbols_of, visible
from textenvs.rewards.grounding.weighty_words import MULTIPLIERS, NEGATIONS, NUMBER_WORDS, ORDINALS

RUN = 3
"""Words; a shorter agreement with a longer statement is no copy."""
NUMBER = "#"
"""What the comparison form of a number begins with."""
SMALL_WORDS = FUNCTION_WORDS | frozenset("is are been am shall should must may might us".split())
SMALL_CHARACTERS = frozenset("的了在是和与及也都就着过之吗呢吧啊这那个其并又被把将为以")
"""Words and Chinese characters that carry no content of their own."""
TURNING = NEGATIONS | frozenset(
    "false untrue wrong incorrect lie lies myth hoax fake rumour rumor nonsense deny denies denied "
    "refuse refuses refused fail fails failed lack lacks lacked hardly barely scarcely rarely "
    "seldom except unlike instead almost nearly allegedly supposedly maybe perhaps possibly "
    "probably neither opposite contrary few half partly".split()
)
"""Words that deny or hedge the clause they stand in."""
RELATIONS = frozenset(
    "before after until since more less fewer least most only all every always some many over "
    "under above below twice up down off out from to into against between during both will would "
    "could can should must might than".split()
)
"""Small words that change what is said of the things around them."""
CONDITIONS = frozenset("if unless whether".split())
"""Words that make a whole sentence conditional."""
# "被" changes who acts and who is acted upon, which the order of the words then does not tell.
_TURNING_CHARACTERS = re.compile("[不没沒非无無未别勿莫否假谣被]|错误|可能|也许|如果|假如")
_HARMLESS = re.compile(
    "不断|不同|不仅|不但|不少|不过|不久|非常|非洲|无论|無論|未来|特别|别墅|分别|区别|级别|否则|是否|能否|不管|"
    "除非|莫斯科|无锡|假期|假日"
)
"""Chinese words in which such a character negates nothing."""
_ABBREVIATION = re.compile(r"(?:^|[\s.(])(?:mr|mrs|ms|dr|st|jr|sr|vs|no|[^\W\d_])\.$")
_SENTENCE_END = re.compile(r"[!?;。…\n]+|\.+(?=\s|$)")
_CLAUSE_END = re.compile(
    r"[,:;、—–|]|\b(?:and|but|while|whereas|although|though|yet|however)\b|但是|但|而且|然而"
)
_QUOTED = re.compile(r"[\"“«《「『]([^\"“”«»《》「」『』\n]{2,80})[\"”»》」』]")
_LIST_MARK = re.compile(r"^\s*(?:[-*•·]|\(?\d{1,2}[.)])\s+")
_TOKEN = re.compile(
    r"(?P<number>(?:(?<![\w.])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?)"
    r"(?:(?:st|nd|rd|th)\b)?(?P<percent>\s?(?:%|percent\b|per cent\b))?"
    rf"|{IDEOGRAPHIC.pattern}"
    r"|(?:(?!" + IDEOGRAPHIC.pattern + r")[^\W\d_])+(?:['’](?:[^\W\d_])+)*"
)
_SUFFIX = re.compile(r"(?<=[a-z]{3})(?:ing|ed|es|s|e)$")


class Quotation(NamedTuple):
    """Words that deny nothing around them: in quotation marks, or such as 无锡, a city.

    Attributes:
        clause: In which clause it stands.
        words: Its stems with content.
        turns: How many of its words deny or hedge.
    """

    clause: int
    words: frozenset[str]
    turns: int


@dataclass(frozen=True)
class Statement:
    """One sentence of a context, or one claim of an answer.

    Attributes:
        words: Case folded; numbers in one spelling that begins with "#".
        clauses: For each word, in which clause it stands.
        turns: For each clause, how often it is denied or hedged, quotations included.
        quoted: Words among them that deny nothing around them.
        conditions: How often the whole is made conditional.
        symbols: Characters of category S.
        is_question: It ends in a question mark.
    """

    words: tuple[str, ...]
    clauses: tuple[int, ...]
    turns: tuple[int, ...]
    quoted: tuple[Quotation, ...]
    conditions: int
    symbols: frozenset[str]
    is_question: bool

    @cached_property
    def stems(self) -> tuple[str, ...]:
        """The words without their inflection."""
        return tuple(map(stem, self.words))

    @cached_property
    def content(self) -> tuple[str, ...]:
        """The stems that carry content, numbers left out."""
        pairs = zip(self.words, self.stems, strict=True)
        return tuple(s for w, s in pairs if has_content(w) and not w.startswith(NUMBER))

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """The numbers, in order."""
        return tuple(word for word in self.words if word.startswith(NUMBER))

    @cached_property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """Neighbouring stems."""
        return frozenset(zip(self.stems, self.stems[1:], strict=False))

    @cached_property
    def runs(self) -> frozenset[tuple[str, ...]]:
        """Runs of three words; the whole of a shorter statement."""
        return frozenset(ngrams(list(self.words), min(RUN, len(self.words))))

    @property
    def turned(self) -> int:
        """How often any of it is denied or hedged."""
        return sum(self.turns)


def has_content(word: str) -> bool:
    """Return whether a word carries content of its own: no "the", no "的"."""
    return word not in SMALL_WORDS and word not in SMALL_CHARACTERS and word not in TURNING


def stem(word: str) -> str:
    """Return an English word without a regular ending, anything else as it is.

    >>> stem("directed") == stem("directs"), stem("released") == stem("release")
    (True, True)
    """
    return _SUFFIX.sub("", word) if len(word) > 4 and word.isascii() else word


def clean(text: str) -> str:
    """Return a text in NFKC without invisible characters, its lines kept."""
    kept = (normalise(line) for line in visible(text).splitlines())
    return "\n".join(line for line in kept if line)


def sentences(text: str) -> list[str]:
    """Cut a text from `clean` into sentences, each with its end mark."""
    found, start = [], 0
    for mark in _SENTENCE_END.finditer(text):
        sentence = text[start : mark.end()]
        if mark[0] == "." and _ABBREVIATION.search(sentence.casefold()):
            continue
        found.append(sentence)
        start = mark.end()
    found.append(text[start:])
    return [s.strip() for s in found if any(map(str.isalnum, s)) or symbols_of(s)]


def without_mark(line: str) -> str:
    """Return a line without the bullet or the number of a list."""
    return _LIST_MARK.sub("", line)


def quotations(text: str) -> frozenset[str]:
    """Return what stands between quotation marks in a text from `clean`, cut into clauses.

    Single words are left out, since "not" in quotation marks would still be one.
    """
    pieces = (piece for found in _QUOTED.findall(text) for piece in _CLAUSE_END.split(found))
    return frozenset(p.strip() for p in pieces if len(p.split()) > 1 or IDEOGRAPHIC.search(p))


def parse(sentence: str) -> Statement:
    """Take one sentence from `sentences`, or one item of a list, apart."""
    phrases = quotations(sentence)
    quoted: list[Quotation] = []
    words: list[str] = []
    clauses: list[int] = []
    turns: list[int] = []
    conditions = 0
    for part in _CLAUSE_END.split(_joined_thousands(sentence)):
        found = _words(part)
        conditions += sum(word in CONDITIONS for word in found)
        quoted.extend(_turning_quotations(part, len(turns), phrases))
        turns.append(_turns(part, found))
        words.extend(found)
        clauses.extend([len(turns) - 1] * len(found))
    return Statement(
        words=tuple(words),
        clauses=tuple(clauses),
        turns=tuple(turns),
        quoted=tuple(quoted),
        conditions=conditions,
        symbols=symbols_of(sentence),
        is_question=sentence.endswith("?"),
    )


def _turning_quotations(part: str, clause: int, phrases: Iterable[str]) -> Iterator[Quotation]:
    """Yield the quotations and the harmless words of a clause that hold a word of denial."""
    found = [phrase for phrase in phrases if phrase in part]
    for phrase in found:
        part = part.replace(phrase, " ")
    for phrase in found + _HARMLESS.findall(part):
        words = _words(phrase)
        turns = _turns(phrase, words)
        if turns:
            kept = (stem(w) for w in words if has_content(w) and not _TURNING_CHARACTERS.match(w))
            yield Quotation(clause, frozenset(kept), turns)


def _turns(part: str, words: Iterable[str]) -> int:
    """Return how often a clause is denied or hedged."""
    turned = sum(word in TURNING for word in words)
    return turned + len(_TURNING_CHARACTERS.findall(part))


def _joined_thousands(sentence: str) -> str:
    """Return a sentence without the commas inside numbers, which end no clause."""
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", sentence)


def _words(part: str) -> list[str]:
    found: list[str] = []
    for token in _TOKEN.finditer(part):
        if token["number"]:
            found.append(_number(token["number"], percent=bool(token["percent"])))
        else:
            found.append(token[0].replace("'", "").replace("’", ""))
    return _with_numbers(found)


def _number(text: str, *, percent: bool = False) -> str:
    """Return the one spelling of a number: "1,000.50%" is "#1000.5%"."""
    digits = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    value = Decimal(digits.replace(",", ""))
    return f"{NUMBER}{value.normalize():f}{'%' if percent else ''}"


def _with_numbers(words: Sequence[str]) -> list[str]:
    """Replace number words by numbers: "twenty one" is #21, "5 million" #5000000."""
    found: list[str] = []
    for i, word in enumerate(words):
        before = found[-1] if found and found[-1].startswith(NUMBER) else ""
        if word in MULTIPLIERS:
            factor = Decimal(before[1:]) if before and not before.endswith("%") else Decimal(1)
            found[len(found) - bool(before) :] = [_number(f"{factor * MULTIPLIERS[word]:f}")]
        elif word in NUMBER_WORDS or word in ORDINALS:
            value = NUMBER_WORDS.get(word, ORDINALS.get(word, 0))
            is_unit = 0 < value < 10 and i > 0 and NUMBER_WORDS.get(words[i - 1], 0) >= 20
            if is_unit and before:
                found[-1] = _number(str(Decimal(before[1:]) + value))
            else:
                found.append(_number(str(value)))
        elif word == "percent" and before and not before.endswith("%"):
            found[-1] = f"{before}%"
        else:
            found.append(word)
    return found
