"""Support: how far one sentence of a context bears a claim out.

A claim is borne out by one sentence, never by words gathered from several, and by that
sentence's words in its order. What changes the truth of a statement is checked apart:
numbers, names, denials.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from rapidfuzz.distance import LCSseq

from textenvs.rewards.grounding.claims import (
    NUMBER,
    RELATIONS,
    SMALL_CHARACTERS,
    Statement,
    clean,
    has_content,
    parse,
    sentences,
)
from textenvs.rewards.grounding.plain_text import IDEOGRAPHIC, visible

LEAST_COVERAGE = 0.55
"""A claim covered less than this is not covered at all: sharing some words is no support."""
CANDIDATES = 3
"""Sentences a claim is compared with, those that share most of its words."""
LONGEST_ITEM = 12
"""Words; a context of parts no longer than this, and without full stops, is a list."""
PASSIVE = "by"
_CASED_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


@dataclass(frozen=True)
class Source:
    """A context, ready to be compared with claims.

    Attributes:
        statements: Its sentences, or the items of a list.
        is_list: It is a list of short items.
        names: Words it writes with a capital that are not just first in a sentence.
        extra: Stems an answer may use although the context does not: those of the question.
    """

    statements: tuple[Statement, ...]
    is_list: bool
    names: frozenset[str]
    extra: frozenset[str]

    @cached_property
    def words(self) -> frozenset[str]:
        """All words."""
        return frozenset(word for s in self.statements for word in s.words)

    @cached_property
    def stems(self) -> frozenset[str]:
        """The stems of all words that are no names, and of the question."""
        found = (
            stem
            for s in self.statements
            for word, stem in zip(s.words, s.stems, strict=True)
            if word not in self.names
        )
        return self.extra.union(found)

    @cached_property
    def symbols(self) -> frozenset[str]:
        """All characters of category S."""
        return frozenset(symbol for s in self.statements for symbol in s.symbols)

    @cached_property
    def where(self) -> dict[str, list[int]]:
        """Stem -> the statements it stands in."""
        found: dict[str, list[int]] = {}
        for i, statement in enumerate(self.statements):
            for stem in set(statement.stems):
                found.setdefault(stem, []).append(i)
        return found

    def nearest(self, claim: Statement) -> list[int]:
        """Return the statements that share most words with a claim, the best first."""
        votes = Counter[int]()
        for stem in set(claim.stems):
            weight = 4 if has_content(stem) else 1
            for i in self.where.get(stem, ()):
                votes[i] += weight
        return sorted(votes, key=lambda i: (-votes[i], i))[:CANDIDATES]


@dataclass(frozen=True, slots=True)
class Support:
    """How one statement bears a claim out.

    Attributes:
        coverage: Share of the claim's words and word pairs that it has, in order, in [0, 1].
        numbers: It has the claim's numbers, belonging to the same things.
        names: It has the claim's names, in order, and words such as "before" or "more"; the
            context has all its other words.
        polarity: It is denied, hedged and made conditional as often as the claim.
    """

    coverage: float
    numbers: bool
    names: bool
    polarity: bool

    @property
    def score(self) -> float:
        """The coverage, or 0 if any check fails."""
        return self.coverage if self.numbers and self.names and self.polarity else 0.0


NO_SUPPORT = Support(0.0, True, True, True)


def source_of(parts: Sequence[str], question: str = "", *, are_items: bool = False) -> Source:
    """Return a context as a source.

    Args:
        parts: Its texts, of any length.
        question: Whose words an answer may use as well.
        are_items: The parts are the items of a list; otherwise they are if all are short.
    """
    cleaned = [clean(part) for part in parts]
    cut = [sentences(part) for part in cleaned]
    is_list = (
        are_items
        or len(parts) > 1
        and all(
            len(found) <= 1 and not part.endswith((".", "。")) and len(part.split()) <= LONGEST_ITEM
            for part, found in zip(cleaned, cut, strict=True)
        )
    )
    texts = [p for p in cleaned if p] if is_list else [s for found in cut for s in found]
    return Source(
        statements=tuple(map(parse, texts)),
        is_list=is_list,
        names=_names(parts),
        extra=frozenset(parse(clean(question)).stems),
    )


def _names(parts: Sequence[str]) -> frozenset[str]:
    """Return the words written with a capital, unless they are first or small elsewhere."""
    capital, small = set(), set()
    for part in parts:
        for sentence in sentences(unicodedata.normalize("NFKC", visible(part))):
            for i, word in enumerate(_CASED_WORD.findall(sentence)):
                folded = word.casefold().replace("'", "").replace("’", "")
                if not word[0].isupper():
                    small.add(folded)
                elif has_content(folded):
                    capital.add((folded, i == 0))
    return frozenset(word for word, is_first in capital if not is_first or word not in small)


def supported(claim: Statement, source: Source) -> Support:
    """Return the best support a claim has in a source."""
    found = [_support(claim, source.statements[i], source) for i in source.nearest(claim)]
    return max(found, key=lambda s: (s.score, s.coverage), default=NO_SUPPORT)


def _support(claim: Statement, statement: Statement, source: Source) -> Support:
    is_passive = _changes_voice(claim, statement)
    return Support(
        coverage=_coverage(claim, statement, source, is_passive),
        numbers=_numbers_agree(claim, statement, source),
        names=_names_agree(claim, statement, source, is_passive),
        polarity=_polarity_agrees(claim, statement, source),
    )


def _changes_voice(claim: Statement, statement: Statement) -> bool:
    """Return whether one of two texts is about the words around "by" in the other."""
    if (PASSIVE in claim.words) == (PASSIVE in statement.words):
        return False
    passive, active = (claim, statement) if PASSIVE in claim.words else (statement, claim)
    at, shared = passive.words.index(PASSIVE), set(active.content)
    return not (shared.isdisjoint(passive.stems[:at]) or shared.isdisjoint(passive.stems[at + 1 :]))


def _coverage(claim: Statement, statement: Statement, source: Source, is_passive: bool) -> float:
    """Return the mean of the shares of words and of word pairs, less what is out of order.

    With n words of content in the claim, h of them in the statement and l in its order (a
    longest common subsequence): (l / n + pairs) / 2 * l / h. Where one is in the passive
    voice and the other not, order says nothing, and the same order is a swap of roles.
    """
    content = claim.content
    if claim.words == statement.words:
        return 1.0
    if source.is_list and any(map(IDEOGRAPHIC.match, statement.words)):
        return 0.0  # there a character less is another item
    if not content and (source.is_list or not claim.numbers):
        return 0.0
    if not content:
        return float(claim.pairs <= statement.pairs)
    hits = (Counter(content) & Counter(statement.content)).total()
    if not hits:
        return 0.0
    in_order = float(LCSseq.similarity(content, statement.content))
    if is_passive:
        in_order = 0 if in_order == hits else hits
    if source.is_list:
        # An item is named by its name, not by a word of it.
        in_order *= min(1.0, len(content) / max(1, len(statement.content)))
    share = in_order / len(content)
    pairs = len(claim.pairs & statement.pairs) / len(claim.pairs) if claim.pairs else share
    covered = (share + pairs) / 2 * in_order / hits
    return covered if covered >= LEAST_COVERAGE else 0.0


def _numbers_agree(claim: Statement, statement: Statement, source: Source) -> bool:
    """Return whether the statement has the claim's numbers, for the same things.

    Where a statement has several numbers, the claim must take them in order with the names
    around them, and leave none out between: "A in 1975 and B in 1982" is not "A in 1982".
    """
    known = set(statement.numbers)
    wanted = [n for n in claim.numbers if n in known or not (n == "#1" and "a" in statement.words)]
    if not known.issuperset(wanted):
        return False
    if not wanted or len(known) < 2:
        return True
    anchors = [w for w in claim.words if w in wanted or w in source.names]
    stretches = list(_stretches(anchors, statement.words))
    mine = set(wanted)
    return any(
        all(word in mine for word in stretch if word.startswith(NUMBER)) for stretch in stretches
    )


def _stretches(anchors: Sequence[str], words: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the shortest stretches of words that hold all anchors in order, one a beginning."""
    for start, word in enumerate(words):
        if word != anchors[0]:
            continue
        at = start
        for anchor in anchors[1:]:
            at = next((j for j in range(at + 1, len(words)) if words[j] == anchor), len(words))
        if at < len(words):
            yield words[start : at + 1]


def _names_agree(claim: Statement, statement: Statement, source: Source, is_passive: bool) -> bool:
    """Return whether the statement has the claim's names in order, and no word is invented.

    A word the context does not have in any inflection is taken for a name: nothing else of
    an answer tells a name in small letters. Of scripts without capitals, each character
    must stand beside a neighbour it has in the statement.
    """
    for word, stem in zip(claim.words, claim.stems, strict=True):
        if has_content(word) and not word.startswith(NUMBER):
            if word not in source.words and (stem not in source.stems or word in source.names):
                return False
    if not RELATIONS.intersection(claim.words).issubset(statement.words):
        return False
    names = [word for word in claim.words if word in source.names]
    there = [word for word in statement.words if word in source.names]
    if is_passive and len(set(names)) > 1:
        # "A by B" for "B ... A": the names change sides, each keeps its own words in order.
        if LCSseq.similarity(names, there) == len(names) or Counter(names) - Counter(there):
            return False
    elif LCSseq.similarity(names, there) < len(names):
        return False
    return _characters_agree(claim, statement)


def _characters_agree(claim: Statement, statement: Statement) -> bool:
    words = claim.words
    if len(words) == 1:
        return True
    pairs = statement.pairs
    for i, word in enumerate(words):
        if IDEOGRAPHIC.match(word) is None or word in SMALL_CHARACTERS:
            continue
        if pairs.isdisjoint((words[i : i + 2], words[max(0, i - 1) : i + 1])):
            return False
    return True


def _polarity_agrees(claim: Statement, statement: Statement, source: Source) -> bool:
    """Return whether a claim is denied as often as the clauses it draws on, and is no question.

    Two denials are not taken for none: what cancels what is not to be told from words.
    """
    if claim.is_question and not statement.is_question:
        return False
    if claim.symbols - source.symbols or claim.conditions != statement.conditions:
        return False
    turns = list(statement.turns)
    for quotation in statement.quoted:
        if quotation.words.isdisjoint(claim.stems):
            turns[quotation.clause] -= quotation.turns
    needed = {*claim.content, *claim.numbers}.intersection(statement.stems)
    said: list[set[str]] = [set() for _ in turns]
    for clause, stem in zip(statement.clauses, statement.stems, strict=True):
        said[clause].add(stem)
    whole = [i for i, stems in enumerate(said) if needed <= stems]
    if whole:  # one clause says it all; what is denied in others does not matter
        return any(claim.turned == turns[i] for i in whole)
    drawn = [i for i, stems in enumerate(said) if not needed.isdisjoint(stems)]
    return claim.turned == sum(turns[i] for i in drawn)
