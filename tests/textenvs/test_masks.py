"""The masks themselves, against brute force, `re`, and plain passes of the reference."""

import builtins
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from textenvs.errors import (
    ConfigError,
    MissingDependencyError,
    PromptError,
    TokenizerError,
    UnknownNameError,
)
from textenvs.masks import (
    AllowedTokens,
    BoundMask,
    ContextTrie,
    Intersection,
    MaskSetting,
    ReferenceTopP,
    RegexMask,
    Rows,
    TokenMask,
    resolve_mask,
)
from textenvs.masks.reference_top_p import nucleus
from textenvs.tokenization import FileTokenizer, load_tokenizer
from textenvs.types import Item, Prompt

TEXTS = [
    "Who's Afraid of It?",
    "Alien",
    "Aliens",
    "Alien 3",
    "Stop!",
    "Höhe",
    "東京物語",
    "(500) days",
]
QUICK = settings(max_examples=60, deadline=None)
QWEN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def saved(tokenizer: Tokenizer, folder: Path) -> FileTokenizer:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<eos>", "pad_token": "<pad>"}')
    return FileTokenizer(folder)


def corpus() -> list[str]:
    return ["\n".join(order) for order in itertools.permutations(TEXTS, 3)]


def newline_joining() -> Tokenizer:
    """Byte-level, with tokens such as "?\\n" that join the end of a line and its newline."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def metaspace() -> Tokenizer:
    """SentencePiece's form: "▁" for spaces, one before the first word, bytes for the rest."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<pad>", "<eos>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([text for text in TEXTS if text.isascii()], trainer)
    data = json.loads(tokenizer.to_str())
    vocab = data["model"]["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    return Tokenizer.from_str(json.dumps(data))


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    special = ["<pad>", "<eos>", "<unk>"]
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def lower_case() -> Tokenizer:
    tokenizer = newline_joining()
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


MAKERS = {
    "newline_joining": newline_joining,
    "metaspace": metaspace,
    "word_piece": word_piece,
    "lower_case": lower_case,
}


@pytest.fixture(scope="module")
def tokenizers_by_name(
    tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: FileTokenizer
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tokenizers")
    made = {name: saved(make(), folder / name) for name, make in MAKERS.items()}
    return {**made, "bytes": byte_tokenizer, "tiny-lm": load_tokenizer("tiny-lm")}


def listing(*titles: str) -> Prompt:
    return Prompt("p", "Choose:", tuple(titles))


def rows_of(
    tokenizer: Any, prompts: Sequence[Prompt], completions: Sequence[list[int]], budget: int
) -> Rows:
    """Return rows whose prompts fill eight columns with one padding token each."""
    shape = (len(prompts), 8 + budget)
    ids, attended = np.full(shape, tokenizer.pad_id, np.int64), np.zeros(shape, np.int8)
    for row, completion in enumerate(completions):
        prompt = tokenizer.encode(prompts[row].text)[-8:]
        ids[row, 8 - len(prompt) : 8 + len(completion)] = [*prompt, *completion]
        attended[row, 8 - len(prompt) : 8 + len(completion)] = 1
    return Rows(prompts, completions, np.ones(len(prompts), bool), ids, attended)


def filled(mask: BoundMask, rows: Rows, vocab_size: int) -> np.ndarray:
    allowed = np.zeros((len(rows.prompts), vocab_size), bool)
    mask.fill(rows, allowed)
    return allowed


def random_answer(
    mask: TokenMask,
    tokenizer: Any,
    prompt: Prompt,
    generator: np.random.Generator,
    budget: int,
    eos_share: float = 0.0,
) -> tuple[str, bool]:
    """Say allowed tokens at random; return the text, and whether EOS ended it."""
    bound = mask.bind(MaskSetting(tokenizer, 8, budget))
    ids: list[int] = []
    while len(ids) < budget:
        allowed = filled(bound, rows_of(tokenizer, [prompt], [ids], budget), tokenizer.vocab_size)
        assert allowed.any(), f"nothing may follow {tokenizer.decode(ids)!r}"
        if allowed[0, tokenizer.eos_id] and generator.random() < eos_share:
            return tokenizer.decode(ids), True
        token = int(generator.choice(np.flatnonzero(allowed[0])))
        if token == tokenizer.eos_id:
            return tokenizer.decode(ids), True
        ids.append(token)
    return tokenizer.decode(ids), False


# ---- AllowedTokens -------------------------------------------------------------------


def test_allowed_tokens_are_ids_and_texts_and_eos(byte_tokenizer: FileTokenizer) -> None:
    a, b = byte_tokenizer.encode_completion("ab")
    found = AllowedTokens(["a", b]).allowed(byte_tokenizer, listing("x"), [a, b])
    assert set(np.flatnonzero(found)) == {a, b, byte_tokenizer.eos_id}
    without = AllowedTokens(["a", b], eos=False).allowed(byte_tokenizer, listing("x"))
    assert set(np.flatnonzero(without)) == {a, b}


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["ab"], "writes as 2 tokens"),
        ([""], "writes as 0 tokens"),
        ([258], "0 to 257"),
        ([-1], "-1"),
        ([True], "True"),
        ([1.5], "1.5"),
    ],
)
def test_allowed_tokens_refuse_what_is_no_token(
    byte_tokenizer: FileTokenizer, tokens: list[Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        AllowedTokens(tokens).allowed(byte_tokenizer, listing("x"))


def test_allowed_tokens_refuse_to_allow_nothing(byte_tokenizer: FileTokenizer) -> None:
    with pytest.raises(ConfigError, match="allows nothing"):
        AllowedTokens([], eos=False).allowed(byte_tokenizer, listing("x"))


# ---- ContextTrie ---------------------------------------------------------------------


def answers(titles: Sequence[str], most: int | None, repeat: bool, empty: bool) -> set[str]:
    """Return every answer of up to four lines that a context trie is to allow."""
    longest = min(4, most or 4) if repeat else min(4, most or 4, len(titles))
    orders: set[str] = {""} if empty else set()
    for n in range(1, longest + 1):
        for chosen in itertools.product(titles, repeat=n):
            if repeat or len(set(chosen)) == n:
                orders.add("\n".join(chosen))
    return orders


@QUICK
@given(
    titles=st.lists(st.text("ab é", max_size=3), min_size=1, max_size=4).filter(any),
    most=st.sampled_from([None, 1, 2, 3]),
    repeat=st.booleans(),
    empty=st.booleans(),
    budget=st.integers(3, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_context_trie_is_the_set_of_all_answers_that_fit(
    byte_tokenizer: FileTokenizer,
    titles: list[str],
    most: int | None,
    repeat: bool,
    empty: bool,
    budget: int,
    seed: int,
) -> None:
    if repeat:
        most = min(most or 3, 3)  # endless answers cannot be enumerated
    eos = byte_tokenizer.eos_id
    distinct = [title for title in dict.fromkeys(titles) if title]
    language = {
        (*byte_tokenizer.encode_completion(answer), eos)
        for answer in answers(distinct, most, repeat, empty)
    }
    language = {ids for ids in language if len(ids) <= budget}
    if not language:
        return
    mask = ContextTrie(max_items=most, repeat=repeat, allow_empty=empty)
    bound = mask.bind(MaskSetting(byte_tokenizer, 8, budget))
    generator, prompt = np.random.default_rng(seed), listing(*titles)
    said: list[int] = []
    while not said or said[-1] != eos:
        expected = {ids[len(said)] for ids in language if list(ids[: len(said)]) == said}
        found = filled(bound, rows_of(byte_tokenizer, [prompt], [said], budget), 258)
        assert set(np.flatnonzero(found[0])) == expected
        said.append(int(generator.choice(sorted(expected))))


@pytest.mark.parametrize("name", ["bytes", "tiny-lm", "newline_joining", "metaspace"])
@QUICK
@given(
    titles=st.lists(
        st.sampled_from([*TEXTS, " lead", "trail ", "a", "ab", "!", "?!"])
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=6),
        min_size=1,
        max_size=5,
    ).filter(any),
    seed=st.integers(0, 2**32 - 1),
)
def test_whatever_a_context_trie_allows_reads_back_as_listed_titles(
    tokenizers_by_name: dict[str, Any], name: str, titles: list[str], seed: int
) -> None:
    tokenizer, prompt = tokenizers_by_name[name], listing(*titles)
    text, ended = random_answer(
        ContextTrie(), tokenizer, prompt, np.random.default_rng(seed), budget=120
    )
    assert ended
    lines = text.split("\n") if text else []
    assert set(lines) <= set(titles)
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("name", ["bytes", "tiny-lm", "newline_joining", "metaspace"])
def test_the_tokenisation_of_every_answer_is_allowed(
    tokenizers_by_name: dict[str, Any], name: str
) -> None:
    tokenizer, prompt = tokenizers_by_name[name], listing(*TEXTS)
    bound = ContextTrie().bind(MaskSetting(tokenizer, 8, 200))
    for order in itertools.permutations(TEXTS, 3):
        ids = [*tokenizer.encode_completion("\n".join(order)), tokenizer.eos_id]
        for said in range(len(ids)):
            rows = rows_of(tokenizer, [prompt], [ids[:said]], 200)
            assert filled(bound, rows, tokenizer.vocab_size)[0, ids[said]], (order, said)


def test_the_newline_joining_tokenizer_joins_newlines(tokenizers_by_name: dict[str, Any]) -> None:
    tokenizer = tokenizers_by_name["newline_joining"]
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode_completion("Stop!\nAlien")]
    assert any(piece != "\n" and piece.endswith("\n") for piece in pieces)


@pytest.mark.parametrize("name", ["word_piece", "lower_case"])
def test_a_tokenizer_that_changes_text_is_refused(
    tokenizers_by_name: dict[str, Any], name: str
) -> None:
    with pytest.raises(TokenizerError, match="reads back"):
        ContextTrie().allowed(tokenizers_by_name[name], listing("Alien", "Stop!"))


def test_a_title_that_is_a_special_token_is_refused(byte_tokenizer: FileTokenizer) -> None:
    with pytest.raises(TokenizerError, match="<eos>"):
        ContextTrie().allowed(byte_tokenizer, listing("a<eos>b"))


@pytest.mark.parametrize("context", [None, (), "text", ("",), (Item("", "x"),)])
def test_a_prompt_that_lists_nothing_is_refused(
    byte_tokenizer: FileTokenizer, context: Any
) -> None:
    with pytest.raises(PromptError, match="'p' lists nothing"):
        ContextTrie().allowed(byte_tokenizer, Prompt("p", "x", context))


def test_a_title_with_a_newline_is_refused(byte_tokenizer: FileTokenizer) -> None:
    with pytest.raises(PromptError, match="newline"):
        ContextTrie().allowed(byte_tokenizer, listing("a\nb"))


def test_an_answer_that_has_left_the_list_can_only_end(byte_tokenizer: FileTokenizer) -> None:
    ids = byte_tokenizer.encode_completion("ax")
    found = ContextTrie().allowed(byte_tokenizer, listing("ab"), ids)
    assert np.flatnonzero(found).tolist() == [byte_tokenizer.eos_id]


def test_items_are_listed_by_their_titles(byte_tokenizer: FileTokenizer) -> None:
    prompt = Prompt("p", "x", (Item("ab", "red"), Item("c", "blue")))
    found = ContextTrie(allow_empty=False).allowed(byte_tokenizer, prompt)
    assert np.flatnonzero(found).tolist() == sorted(byte_tokenizer.encode_completion("ac"))


def test_max_items_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_items must be at least 1"):
        ContextTrie(max_items=0)


# ---- RegexMask -----------------------------------------------------------------------

LETTERS = ["a", "b", "1", "é", "\n", " ", r"\.", "[0-9]", "[ab]", "[^a]", "."]


def combine(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        st.tuples(inner, inner).map("".join)
        | st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})")
        | st.tuples(inner, st.sampled_from("?*+")).map(lambda pair: f"(?:{pair[0]}){pair[1]}")
        | inner.map(lambda one: f"({one}){{1,2}}")
    )


PATTERNS = st.recursive(st.sampled_from(LETTERS), combine, max_leaves=6)


@QUICK
@given(pattern=PATTERNS, seed=st.integers(0, 2**32 - 1))
def test_a_regex_mask_allows_eos_exactly_on_full_matches(
    byte_tokenizer: FileTokenizer, pattern: str, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    bound = RegexMask(pattern).bind(MaskSetting(byte_tokenizer, 8, 20))
    ids: list[int] = []
    while len(ids) < 20:
        rows = rows_of(byte_tokenizer, [listing("x")], [ids], 20)
        allowed = filled(bound, rows, 258)[0]
        # A character of several bytes is no text yet: there EOS must not be allowed either.
        raw = bytes(BYTES[byte_tokenizer.backend.id_to_token(i) or ""] for i in ids)
        try:
            matches = re.fullmatch(pattern, raw.decode()) is not None
        except UnicodeDecodeError:
            matches = False
        assert allowed[byte_tokenizer.eos_id] == matches, raw
        assert not allowed[byte_tokenizer.pad_id]
        assert allowed.any()
        going_on = np.flatnonzero(allowed)
        going_on = going_on[going_on != byte_tokenizer.eos_id]
        if not len(going_on):
            return
        ids.append(int(generator.choice(going_on)))


def byte_of_token() -> dict[str, int]:
    """Return the byte each character of the byte-level alphabet stands for (GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(other)}


BYTES = byte_of_token()


@QUICK
@given(data=st.data(), pattern=PATTERNS)
def test_a_regex_mask_lets_every_match_through(
    tokenizers_by_name: dict[str, Any], data: st.DataObject, pattern: str
) -> None:
    characters = st.characters(codec="utf-8")
    text = data.draw(st.from_regex(re.compile(pattern), fullmatch=True, alphabet=characters))
    tokenizer = tokenizers_by_name[data.draw(st.sampled_from(["bytes", "tiny-lm"]))]
    if len(text.encode()) > 60:
        return
    ids = [*tokenizer.encode_completion(text), tokenizer.eos_id]
    bound = RegexMask(pattern).bind(MaskSetting(tokenizer, 8, len(ids)))
    for said in range(len(ids)):
        rows = rows_of(tokenizer, [listing("x")], [ids[:said]], len(ids))
        assert filled(bound, rows, tokenizer.vocab_size)[0, ids[said]], (text, said)


def test_what_leaves_a_regex_can_only_end(byte_tokenizer: FileTokenizer) -> None:
    ids = byte_tokenizer.encode_completion("abx")
    found = RegexMask("(ab)+c").allowed(byte_tokenizer, listing("x"), ids)
    assert np.flatnonzero(found).tolist() == [byte_tokenizer.eos_id]


@pytest.mark.parametrize("pattern", ["(", "a(?=b)", r"(a)\1", "[", "*"])
def test_a_pattern_that_cannot_be_compiled_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(pattern))):
        RegexMask(pattern)


def test_a_regex_with_a_slash_and_quotes_is_taken_as_it_is(byte_tokenizer: FileTokenizer) -> None:
    generator = np.random.default_rng(0)
    text, ended = random_answer(
        RegexMask(r"""a/b"c'\\d"""), byte_tokenizer, listing("x"), generator, 20
    )
    assert (text, ended) == ("a/b\"c'\\d", True)


def test_a_regex_works_with_a_transformers_tokenizer(byte_folder: Path) -> None:
    import transformers

    tokenizer = load_tokenizer(transformers.AutoTokenizer.from_pretrained(byte_folder))
    text, ended = random_answer(
        RegexMask("yes|no"), tokenizer, listing("x"), np.random.default_rng(0), 5
    )
    assert ended and text in {"yes", "no"}


def test_a_regex_leaves_the_tokenizer_as_it_is(byte_folder: Path) -> None:
    tokenizer = FileTokenizer(byte_folder)
    tokenizer.backend.enable_padding(length=3)
    RegexMask("yes|no").bind(MaskSetting(tokenizer, 8, 5))
    assert tokenizer.backend.padding is not None


@pytest.mark.parametrize(
    ("name", "why"), [("metaspace", "puts bytes together"), ("word_piece", "decoder type")]
)
def test_a_tokenizer_whose_text_is_not_its_bytes_is_refused(
    tokenizers_by_name: dict[str, Any], name: str, why: str
) -> None:
    with pytest.raises(TokenizerError, match=why):
        RegexMask("a+").allowed(tokenizers_by_name[name], listing("x"))


class SpelledTokenizer:
    """A tokenizer of one's own, with no tokenizer.json behind it."""

    name, vocab_size, eos_id, pad_id = "spelled", 128, 0, 0

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    encode_completion = encode

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i) for i in ids if i)


def test_a_tokenizer_of_ones_own_serves_a_trie_and_no_regex() -> None:
    tokenizer = SpelledTokenizer()
    text, _ = random_answer(
        ContextTrie(allow_empty=False),
        tokenizer,
        listing("ab", "c"),
        np.random.default_rng(0),
        9,
    )
    assert set(text.split("\n")) <= {"ab", "c"}
    with pytest.raises(TokenizerError, match="no fast tokenizer"):
        RegexMask("a").allowed(tokenizer, listing("x"))


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    found = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return found(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_a_missing_llguidance_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "llguidance")
    with pytest.raises(MissingDependencyError, match=r'pip install "textenvs\[masks\]"'):
        RegexMask("a")


def test_a_missing_torch_is_named(
    monkeypatch: pytest.MonkeyPatch, byte_tokenizer: FileTokenizer
) -> None:
    without(monkeypatch, "textenvs.reference")
    with pytest.raises(MissingDependencyError, match=r'pip install "textenvs\[agents\]"'):
        ReferenceTopP("tiny-lm").allowed(byte_tokenizer, listing("x"))


# ---- ReferenceTopP -------------------------------------------------------------------


@QUICK
@given(
    weights=st.lists(st.floats(0, 1), min_size=1, max_size=20).filter(lambda w: sum(w) > 0.01),
    p=st.floats(0.01, 1.0),
)
def test_a_nucleus_is_the_smallest_set_that_holds_p(weights: list[float], p: float) -> None:
    probabilities = np.array(weights) / np.sum(weights)
    with np.errstate(divide="ignore"):
        found = nucleus(np.log(probabilities), p)
    assert probabilities[found[0]] >= probabilities.max() - 1e-12
    assert probabilities[found].sum() >= p - 1e-9
    if p < 1:  # no smaller set does: the likeliest N - 1 hold less
        assert np.sort(probabilities)[::-1][: len(found) - 1].sum() < p + 1e-9
    assert len(set(found.tolist())) == len(found)


def test_a_nucleus_takes_the_lower_of_equal_tokens() -> None:
    assert nucleus(np.log(np.full(8, 0.125)), 0.3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("p", [0.0, -1.0, 1.5])
def test_a_p_out_of_range_is_refused(p: float) -> None:
    with pytest.raises(ConfigError, match="p must be above 0"):
        ReferenceTopP("tiny-lm", p)


def test_the_top_p_of_rows_is_that_of_plain_passes_of_the_model(
    byte_tokenizer: FileTokenizer, make_model: Callable[..., Any]
) -> None:
    import torch

    from textenvs.reference import CausalLMReference

    model = make_model("llama", seed=2)
    mask = ReferenceTopP(CausalLMReference(model, bfloat16=False), 0.8)
    bound = mask.bind(MaskSetting(byte_tokenizer, 8, 6))
    generator = np.random.default_rng(0)
    prompts = [Prompt(str(i), "abcdefgh"[: i + 1]) for i in range(3)]
    completions: list[list[int]] = [[], [], []]
    for step in range(12):
        found = filled(bound, rows_of(byte_tokenizer, prompts, completions, 6), 258)
        for row in range(3):
            ids = byte_tokenizer.encode(prompts[row].text) + completions[row]
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1].double()
            expected = nucleus(logits.log_softmax(-1).numpy(), 0.8)
            assert set(np.flatnonzero(found[row])) == set(expected), (step, row)
        for row in range(3):
            # Once two tokens come between two questions, which no cache can follow.
            new = generator.integers(2, 258, 2 if step == 2 else 1)
            completions[row] = [*completions[row], *new.tolist()]
            if len(completions[row]) >= 6 or (row == 1 and step == 3):
                completions[row] = []
                prompts[row] = Prompt(f"{row}-{step}", "zyxwv"[: 1 + step % 5])


# ---- Intersection, batches, names ----------------------------------------------------


def test_an_intersection_allows_what_every_part_allows(byte_tokenizer: FileTokenizer) -> None:
    prompt, letters = listing("ab", "ac", "d"), AllowedTokens(["a", "b", "c"])
    both = ContextTrie() & letters & RegexMask("[a-c]+")
    assert isinstance(both, Intersection) and len(both.parts) == 3
    parts = [part.allowed(byte_tokenizer, prompt) for part in both.parts]
    found = both.allowed(byte_tokenizer, prompt)
    assert np.array_equal(found, parts[0] & parts[1] & parts[2])
    assert np.flatnonzero(found).tolist() == byte_tokenizer.encode_completion("a")


def test_an_empty_intersection_is_empty_or_allows_eos(byte_tokenizer: FileTokenizer) -> None:
    parts = (AllowedTokens(["a"], eos=False), AllowedTokens(["b"], eos=False))
    assert not Intersection(parts).allowed(byte_tokenizer, listing("x")).any()
    found = Intersection(parts, on_empty="eos").allowed(byte_tokenizer, listing("x"))
    assert np.flatnonzero(found).tolist() == [byte_tokenizer.eos_id]


def test_an_intersection_checks_its_options() -> None:
    with pytest.raises(ConfigError, match="two or more masks"):
        Intersection((ContextTrie(),))
    with pytest.raises(UnknownNameError, match="Did you mean 'eos'"):
        Intersection((ContextTrie(), ContextTrie()), on_empty="eso")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ContextTrie() & "context-trie"  # type: ignore[operator]


@pytest.mark.parametrize(
    "mask",
    [ContextTrie(), RegexMask("[a-c]*\n?"), AllowedTokens(["a"]), ContextTrie() & RegexMask("a.*")],
    ids=lambda mask: type(mask).__name__,
)
def test_a_batch_is_its_rows_and_inactive_rows_are_left_alone(
    byte_tokenizer: FileTokenizer, mask: TokenMask
) -> None:
    prompts = [listing("ab", "abc"), listing("b", "ca"), listing("aa")]
    bound = mask.bind(MaskSetting(byte_tokenizer, 8, 12))
    texts = [("", "", ""), ("a", "b", "a"), ("ab", "b\n", "x"), ("", "b\nc", "xa")]
    for said in texts:
        completions = [byte_tokenizer.encode_completion(text) for text in said]
        rows = rows_of(byte_tokenizer, prompts, completions, 12)
        rows.active[2] = False
        batch = filled(bound, rows, 258)
        for row in range(2):
            alone = mask.allowed(byte_tokenizer, prompts[row], completions[row], max_new_tokens=12)
            assert np.array_equal(batch[row], alone)
        assert not batch[2].any()


def test_what_may_follow_is_asked_of_answers_that_can_go_on(byte_tokenizer: FileTokenizer) -> None:
    with pytest.raises(ConfigError, match="no token may follow 2 tokens"):
        ContextTrie().allowed(byte_tokenizer, listing("ab"), [5, 6], max_new_tokens=2)
    with pytest.raises(PromptError):
        ContextTrie().allowed(byte_tokenizer, listing("ab"), max_prompt_tokens=2)


def test_masks_are_found_by_name() -> None:
    mask = ContextTrie(max_items=2)
    assert resolve_mask(mask) is mask
    assert resolve_mask("context-trie") == ContextTrie()
    with pytest.raises(UnknownNameError, match="Did you mean 'context-trie'"):
        resolve_mask("context-tree")
    with pytest.raises(ConfigError, match="a mask is a TokenMask"):
        resolve_mask({"regex": "a"})


def test_importing_the_masks_imports_neither_torch_nor_llguidance() -> None:
    code = (
        "import sys, textenvs.masks, textenvs.wrappers.action_mask\n"
        "print(*{'torch', 'transformers', 'llguidance'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "", done.stdout
    assert done.returncode == 0, done.stderr
