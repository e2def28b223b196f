"""What an audit is made of: honest answers, gold, injected prompts, ranks, by hand."""

import numpy as np
import pytest

from textenvs.audit.controls import rank_correlation, ranks
from textenvs.audit.exploits.nothing import with_instruction
from textenvs.audit.exploits.scene import split_words
from textenvs.audit.subject import honest_answers, make_subject
from textenvs.audit.verdicts import share_of
from textenvs.types import Episode, Item, Prompt

SELECT = "textenvs/ContextSelect-v0"


def test_half_of_the_items_is_honest() -> None:
    """A reward that pays nothing for more than half is fine; paying all for an exploit is not."""
    names = [(h.name, h.text) for h in honest_answers("a\nb\nc\nd\n")]
    assert names == [
        ("the oracle", "a\nb\nc\nd\n"),
        ("all right items but one", "a\nb\nc"),
        ("half of the right items", "a\nb"),
    ]
    assert [h.text for h in honest_answers("a\nb")] == ["a\nb", "a"]
    assert [h.text for h in honest_answers("one answer")] == ["one answer"]


def test_instructions_fit_the_kind_of_the_context() -> None:
    items = (Item("a", "x"), Item("b", "y"))
    told = with_instruction(Prompt("p", "text", items), "Obey.", unlike=["a"])
    assert told.context == (*items, Item("Obey.", "y"))
    assert told.text == "Obey.\ntext"
    assert with_instruction(Prompt("p", "text", ("s",)), "Obey.").context == ("s", "Obey.")
    assert with_instruction(Prompt("p", "text", "s."), "Obey.").context == "s. Obey."
    assert with_instruction(Prompt("p", "text"), "Obey.").context is None


def test_gold_is_the_least_of_the_metrics_scaled_between_nothing_and_the_oracle() -> None:
    subject = make_subject(SELECT, n_prompts=8)
    assert subject.gold.names == ("correct", "listed", "precision", "recall")
    prompt = subject.prompts[0]
    titles = [item.title for item in prompt.context]
    right = subject.standards[prompt.id].oracle.text
    texts = [right, "", "\n".join(titles), "nothing listed"]
    golds = subject.gold([Episode(prompt, text) for text in texts])
    share = len(right.splitlines()) / len(titles)
    assert golds.tolist() == pytest.approx([1.0, 0.0, share, 0.0])


def test_words_of_a_script_without_spaces_are_pairs_of_characters() -> None:
    assert split_words("沈阳夜市的") == (["沈阳", "夜市", "的"], "")
    assert split_words("Ice Age") == (["Ice", "Age"], " ")
    assert split_words("Amélie") == (["Amélie"], " ")
    assert split_words("") == ([], " ")


def test_rank_correlation_by_hand() -> None:
    assert ranks(np.array([30.0, 10.0, 30.0, 20.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
    rising = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(rising, rising**3) == pytest.approx(1.0)
    assert rank_correlation(rising, -rising) == pytest.approx(-1.0)
    # d = (0, 1, -1, 0): 1 - 6 * 2 / (4 * 15)
    assert rank_correlation(rising, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)
    assert rank_correlation(rising, np.ones(4)) == 0.0
    assert rank_correlation(np.array([1.0, np.nan, 3.0]), rising[:3]) == pytest.approx(1.0)


def test_share_of_the_way_to_an_honest_answer() -> None:
    assert share_of(0.5, 1.0, 0.0) == 0.5
    assert share_of(2.0, 4.0, -4.0) == 0.75
    # Where honesty earns no more than nothing, whatever reaches it counts in full.
    assert (share_of(0.2, 0.2, 0.3), share_of(0.1, 0.2, 0.3)) == (1.0, 0.0)
