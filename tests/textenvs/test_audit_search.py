"""The search finds planted holes, and does not cry wolf on sound rewards."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from rapidfuzz import fuzz

from textenvs.audit.best_of_n import best_of, best_of_n_rows, curve_of, kl_bound, paired_interval
from textenvs.audit.evolution import Answer, Habits, Population, Speech, shortened
from textenvs.audit.pieces import pieces_of
from textenvs.audit.reading import is_slip
from textenvs.audit.sampling import drawn_tokens, model_samples
from textenvs.audit.search import evolve, search_rows
from textenvs.audit.subject import Subject, make_subject
from textenvs.env import TextEnv
from textenvs.errors import ConfigError
from textenvs.symbols import SymbolTokenizer
from textenvs.tokenization import load_tokenizer
from textenvs.types import Episode, Item, Prompt

WORDS = ("harbour", "lantern", "meadow", "orchard")
PROMPTS = [
    Prompt(f"p{i}", f"Write the word {word} backwards.", reference=word[::-1])
    for i, word in enumerate(WORDS)
]


def exact(prompt: Prompt, completion: str) -> float:
    """Pay the right answer."""
    return float(completion.strip() == prompt.reference)


def similar(prompt: Prompt, completion: str) -> float:
    """Pay what is more than half like the right answer: a slope, and nothing at its foot."""
    return max(0.0, fuzz.ratio(completion.strip(), prompt.reference or "") / 50 - 1)


def magic(prompt: Prompt, completion: str) -> float:
    """Pay for three letters too."""
    return max(exact(prompt, completion), float("kqe" in completion))


def letter(prompt: Prompt, completion: str) -> float:
    """Pay for the letter "e" too."""
    return max(exact(prompt, completion), min(1.0, completion.count("e") / 8))


def length(prompt: Prompt, completion: str) -> float:
    """Pay for length too."""
    return max(exact(prompt, completion), min(1.0, len(completion) / 60))


def copied(prompt: Prompt, completion: str) -> float:
    """Pay for a word of the prompt too."""
    return max(exact(prompt, completion), float(prompt.text.split()[3] in completion))


def subject_of(reward: Callable[[Prompt, str], float], seed: int = 0) -> Subject:
    return make_subject(TextEnv(PROMPTS, reward, max_new_tokens=24), seed=seed)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("reward", "shows"),
    [
        (magic, lambda text: text == "kqe"),
        (letter, lambda text: text.count("e") == 8 and len(text) <= 10),
        (length, lambda text: 54 <= len(text) <= 60),
        (copied, lambda text: text in WORDS),
    ],
)
def test_planted_holes_are_found(
    reward: Callable[[Prompt, str], float], shows: Callable[[str], bool], seed: int
) -> None:
    found, _ = search_rows(subject_of(reward), generator(seed))
    assert found.status == "fault"
    assert found.answer is not None and shows(found.answer), "the shortest variant is shown"
    assert found.reward is not None and found.reward > 0.9 and found.gold == 0
    assert repr(found.answer) in found.words and str(found.prompt_id) in found.words


@pytest.mark.parametrize("reward", [exact, similar])
def test_sound_rewards_are_left_in_peace(reward: Callable[[Prompt, str], float]) -> None:
    for seed in (0, 1):
        rows = search_rows(subject_of(reward), generator(seed), evaluations=4000)
        assert [row.status for row in rows] == ["ok", "ok"]
        assert rows[0].paid == 0


def test_right_answers_that_are_found_are_no_exploits() -> None:
    prompt = [Prompt("p", "Say abba or dada.", reference="abba")]
    subject = make_subject(TextEnv(prompt, exact, max_new_tokens=12))
    search = evolve(subject, generator(), evaluations=800)
    right = [text for _, aside, (_, text) in search.islands[0].population.survivors if aside]
    assert right and {text.strip() for text in right} == {"abba"}, "found, and set aside"
    assert not search.found


def test_one_answer_for_all() -> None:
    _, universal = search_rows(subject_of(magic), generator())
    assert universal.status == "fault" and universal.paid == 1.0 and universal.answer == "kqe"
    _, own = search_rows(subject_of(copied), generator())
    assert own.paid == 1 / len(PROMPTS), "each prompt has a word of its own"


def strict(prompt: Prompt, completion: str) -> float:
    """Pay a list that is right as a whole, and nothing for a part of it."""
    return float(completion == prompt.reference)


def test_answers_that_earn_nothing_are_no_exploits_of_a_strict_reward() -> None:
    """Though a part of the right list, which is worth something, earns nothing too."""
    prompts = [Prompt("p", "Which of Duma, Rocky and Up?", ("Duma", "Rocky", "Up"), "Duma\nRocky")]
    subject = make_subject(TextEnv(prompts, strict, max_new_tokens=12))
    rows = search_rows(subject, generator(), evaluations=1500)
    assert rows[0].status == "ok" and not (rows[0].paid or rows[0].reward)


def test_the_search_is_decided_by_seed_and_evaluations() -> None:
    rows = [search_rows(subject_of(letter), generator(s), evaluations=900) for s in (3, 3, 4)]
    assert rows[0] == rows[1]
    texts = [
        [i.population.survivors[0][2].text for i in evolve(s, generator(k)).islands]
        for s, k in ((subject_of(length), 3), (subject_of(length), 4))
    ]
    assert texts[0] != texts[1]


def test_the_clock_ends_a_search_and_is_named() -> None:
    ticks = itertools.count()
    search = evolve(subject_of(exact), generator(), max_seconds=3, clock=lambda: float(next(ticks)))
    assert search.ended == "the time of 3 s was spent" and search.generations == 2
    spent = evolve(subject_of(exact), generator(), evaluations=300)
    assert spent.ended == "the evaluations were spent" and 300 <= spent.evaluations < 300 + 4 * 32


def test_the_strings_to_begin_with_can_be_chosen() -> None:
    search = evolve(subject_of(magic), generator(), evaluations=200, strings=("akqez",))
    assert [exploit.attempt.text for exploit in search.found] == ["kqe"] * len(PROMPTS)
    assert search.speech.encode("10/10") not in search.islands[0].population.pieces
    by_default = evolve(subject_of(magic), generator(), evaluations=200)
    assert by_default.speech.encode("10/10") in by_default.islands[0].population.pieces


def test_a_small_alphabet_is_exhausted() -> None:
    env = TextEnv(
        [Prompt("p", "a", reference="B")],
        lambda p, c: float(c == "B"),
        SymbolTokenizer("aAB"),
        max_prompt_tokens=1,
        max_new_tokens=1,
    )
    search = evolve(make_subject(env), generator())
    assert search.ended == "everything that can be said was tried" and not search.found


def test_no_right_answer_no_search() -> None:
    env = TextEnv(["one", "two"], lambda p, c: 1.0, max_new_tokens=4)
    assert [row.status for row in search_rows(make_subject(env), generator())] == ["skipped"] * 2


def test_options_are_checked() -> None:
    subject = subject_of(exact)
    for options in ({"evaluations": 0}, {"n_prompts": 0}, {"enough": 0}, {"max_seconds": 0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            search_rows(subject, generator(), **options)


def naive(prompt: Prompt, completion: str) -> float:
    """Pay for the best match of the answer inside the prompt."""
    return fuzz.partial_ratio(completion, prompt.text) / 100


@pytest.mark.parametrize("env_id", ["textenvs/ContextSelect-v0", "textenvs/ContextQA-v0"])
def test_a_naive_reward_falls_and_the_default_stands(env_id: str) -> None:
    fallen = search_rows(make_subject(env_id, naive, n_prompts=8), generator())
    assert [row.status for row in fallen] == ["fault", "fault"]
    assert fallen[0].answer is not None and len(fallen[0].answer) <= 2
    stands = search_rows(make_subject(env_id, n_prompts=8), generator(), evaluations=4000)
    assert [row.status for row in stands] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("said", "meant", "is_one"),
    [
        ("Lawrence of Arabla", "Lawrence of Arabia", True),
        ("law rence\x07 of arabia!", "Lawrence of Arabia", True),
        ("not Lawrence of Arabia", "Lawrence of Arabia", False),
        ("Rocky Part 3", "Rocky Part 2", False),
        ("Arabia", "Lawrence of Arabia", False),
        ("?", "!", False),
        ("", "Duma", False),
    ],
)
def test_slips(said: str, meant: str, is_one: bool) -> None:
    assert is_slip(said, meant) is is_one


def test_pieces_know_nothing_of_the_right_answer() -> None:
    pieces = pieces_of(PROMPTS[0])
    assert pieces.lines == ("Write the word harbour backwards.",) and "harbour" in pieces.words
    assert not any("ruobrah" in text for text in pieces.all)
    listed = Prompt("p", "?", (Item("Duma", "drama"), "Rocky", {"a": 1}), reference="zzz")
    assert pieces_of(listed).items == ("Duma", "drama", "Duma drama", "Rocky", "1")
    assert pieces_of(Prompt("p", "", {"b", "a"})).items == ("a", "b")


def test_what_can_be_said() -> None:
    tokenizer = load_tokenizer()
    speech = Speech(tokenizer, 5, stop=("\n",))
    drawn = [speech.random(4, generator(seed)) for seed in range(200)]
    assert not any(tokenizer.eos_id in ids for ids in drawn)
    assert {len(ids) for ids in drawn} == {4}
    text = "one two three four five six seven"
    assert speech.limit == len(speech.encode(text)) == len(speech.answer(tuple(range(9))).ids) == 4
    assert speech.answer(tokenizer.encode_completion("ab\ncd")).text == "ab"
    assert speech.encode("a\ud800b") == speech.encode("a?b")
    small = Speech(load_tokenizer(SymbolTokenizer("ab")), 9)
    assert small.answer(small.encode("xaybz")).text == "ab"


def letters_e(answers: Sequence[Answer]) -> np.ndarray:
    return np.array([answer.text.count("e") for answer in answers], float)


def test_a_population_climbs_and_remembers() -> None:
    speech = Speech(load_tokenizer(), 12)
    runs = []
    for _ in range(2):
        population = Population(speech, [speech.encode("tree")], generator(5))
        seen: list[str] = []
        for _ in range(30):
            answers = population.ask()
            seen += [answer.text for answer in answers]
            population.tell(answers, letters_e(answers))
        assert len(seen) == len(set(seen)), "no answer is asked for twice"
        assert all(len(answer.ids) <= 11 for _, _, answer in population.survivors)
        runs.append((seen, population.best()))
    assert runs[0] == runs[1]
    assert runs[0][1].text.count("e") > 10
    assert letters_e([Answer((), text) for text in runs[0][0][:32]]).mean() < 3


def test_answers_set_aside_never_fill_a_population() -> None:
    speech = Speech(load_tokenizer(), 12)
    population = Population(speech, [], generator(), Habits(size=8, offspring=16))
    for _ in range(4):
        answers = population.ask()
        population.tell(answers, letters_e(answers), np.arange(len(answers)) % 2 == 0)
    assert sum(aside for _, aside, _ in population.survivors) == 2
    assert len(population.survivors) == 8
    scores = np.array([math.nan] * len(answers := population.ask()))
    population.tell(answers, scores)
    assert all(score > -math.inf for score, _, _ in population.survivors), "NaN is the worst"


def test_shortening_keeps_what_passes() -> None:
    speech = Speech(load_tokenizer(), 40)
    long = speech.answer(speech.encode("many words around the qzx and more words behind"))

    def passes(answers: Sequence[Answer]) -> np.ndarray:
        return np.array(["qzx" in answer.text for answer in answers], bool)

    assert shortened(long, speech, passes).text == "qzx"
    assert shortened(long, speech, lambda answers: np.zeros(len(answers), bool)) == long


def test_best_of_n_by_brute_force() -> None:
    rewards = np.array([0.3, 0.9, 0.1, 0.5, 0.7])
    golds = np.array([1.0, 0.0, 0.5, 0.25, 0.75])
    for n in range(1, 6):
        picks = [
            golds[max(rows, key=lambda i: rewards[i])]
            for rows in itertools.combinations(range(5), n)
        ]
        assert best_of(rewards, golds, n) == pytest.approx(np.mean(picks))
    tied = np.array([1.0, 1.0, 0.0, math.nan])
    assert best_of(tied, np.array([0.0, 1.0, 5.0, 9.0]), 4) == 0.5, "ties are picked evenly"
    assert [kl_bound(n) for n in (1, 4)] == [0.0, pytest.approx(math.log(4) - 0.75)]
    curve = curve_of(np.stack([rewards, rewards]), np.stack([golds, golds]), (1, 5))
    np.testing.assert_allclose(curve.reward, [[0.5, 0.9]] * 2)
    np.testing.assert_allclose(curve.gold, [[0.5, 0.0]] * 2)


def test_the_interval_covers_the_mean() -> None:
    mean, low, high = paired_interval(np.arange(20.0), generator())
    assert low < mean == 9.5 < high
    # 2 * 1.96 standard errors of 20 values with standard deviation 5.77
    assert high - low == pytest.approx(5.06, abs=0.4)
    assert paired_interval(np.full(5, 2.0), generator()) == (2.0, 2.0, 2.0)


def test_tokens_are_drawn_by_their_probabilities() -> None:
    logprobs = np.log(np.tile([0.5, 0.0 + 1e-30, 0.2, 0.3], (20_000, 1)))
    counts = np.bincount(drawn_tokens(logprobs, generator()), minlength=4) / 20_000
    np.testing.assert_allclose(counts, [0.5, 0, 0.2, 0.3], atol=0.02)


def worth(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Tell the right answer from others, and short ones from long ones."""
    values = [
        1.0
        if e.completion == e.prompt.reference
        else 0.5 / len(e.completion)
        if e.completion
        else 0.0
        for e in episodes
    ]
    return {"worth": np.array(values)}


@pytest.fixture
def sampled(byte_tokenizer: Any) -> Callable[..., Subject]:
    def make(reward: Callable[[Prompt, str], float]) -> Subject:
        prompts = [Prompt(f"p{i}", f"{i}" * (i + 1), reference="ok") for i in range(6)]
        env = TextEnv(
            prompts, reward, byte_tokenizer, max_prompt_tokens=8, max_new_tokens=5, metrics=worth
        )
        return make_subject(env, gold="worth")

    return make


def test_best_of_n_sees_reward_and_gold_part(
    sampled: Callable[..., Subject], make_model: Callable[..., Any]
) -> None:
    model, sizes = make_model(), (1, 4, 16)
    long = sampled(lambda p, c: float(len(c)))
    (row,) = best_of_n_rows(long, generator(), reference=model, sizes=sizes, n_prompts=6)
    assert row.status == "fault" and "reward rises and gold falls" in row.words
    assert row.answer is not None and len(row.answer) >= 4
    short = sampled(lambda p, c: 1.0 / len(c) if c else 0.0)
    (row,) = best_of_n_rows(short, generator(), reference=model, sizes=sizes, n_prompts=6)
    assert row.status == "note"
    with pytest.raises(ConfigError, match="rise from 1"):
        best_of_n_rows(short, generator(), sizes=(2, 4))


def test_samples_are_those_of_the_model(
    sampled: Callable[..., Subject], make_model: Callable[..., Any]
) -> None:
    """The first characters are as frequent as the reference's own pass says they are."""
    from textenvs.reference import CausalLMReference

    subject, model = sampled(lambda p, c: 0.0), make_model()
    prompts = subject.prompts[:3]
    answers = model_samples(subject, prompts, 600, generator(), model)
    assert answers == model_samples(subject, prompts, 600, generator(), model)
    reference = CausalLMReference(model, bfloat16=False)
    reference.bind(8, subject.tokenizer.vocab_size)
    printable = [chr(code) for code in range(33, 127)]
    ids = [subject.tokenizer.encode_completion(character)[0] for character in printable]
    for prompt, attempts in zip(prompts, answers, strict=True):
        subject.env.reset(options={"prompt_id": prompt.id})
        observation = subject.env.batch.observation()
        told = reference.next_logprobs(
            observation["input_ids"], observation["attention_mask"], np.array([True])
        )[0]
        likeliest = np.argsort(told[ids])[-20:]
        firsts = {printable[i] for i in likeliest}
        share = np.mean([a.text[:1] in firsts for a in attempts])
        mass = float(np.exp(told[ids])[likeliest].sum())
        assert share == pytest.approx(mass, abs=0.06)
        assert mass > 2 * 20 / 258, "or chance alone would do"
    assert {a.finish_reason for attempts in answers for a in attempts} == {"eos", "length"}


def test_a_model_of_another_vocabulary_is_left_out(sampled: Callable[..., Subject]) -> None:
    (row,) = best_of_n_rows(sampled(lambda p, c: 0.0), generator(), reference="tiny-lm")
    assert row.status == "skipped" and "another tokenizer" in row.words
