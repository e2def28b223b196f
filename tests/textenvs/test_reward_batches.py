"""Batches of texts: by length, within the budget, and shapes that company does not change."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig
from transformers import AutoTokenizer as Tokenizers

from textenvs.rewards.learned.batches import FIXED_TOKENS_CPU, Batching, batches_by_length
from textenvs.rewards.learned.classifier import LoadedClassifier, shared_classifier

LENGTHS = [3, 9, 1, 9, 4, 30, 15, 16, 64, 63, 40, 2]


def rows_of(lengths: list[int]) -> list[list[int]]:
    return [[i + 1] * length for i, length in enumerate(lengths)]


def test_batches_by_length() -> None:
    lengths = [3, 9, 1, 9, 4, 30]
    batches = batches_by_length(lengths, 20)
    assert batches == [[5], [1, 3], [4, 0, 2]]
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 20 for b in batches)
    assert batches_by_length([], 20) == []


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("budget", [1, 64, 10_000])
def test_every_row_comes_back_in_its_place(fixed: bool, left: bool, budget: int) -> None:
    batching = Batching("cpu", budget, longest=64, fixed_shapes=fixed, left=left)

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assert ids.shape == mask.shape and ids.shape[1] <= 64
        assert ids.numel() <= max(budget, ids.shape[1])
        ends = mask[:, -1] if left else mask[:, 0]
        assert ends.all() and (mask.sum(1) >= 1).all()
        return torch.stack([(ids * mask).sum(1), mask.sum(1)], 1)

    said = batching.outputs(rows_of(LENGTHS), forward)
    assert said[:, 1].tolist() == LENGTHS
    assert said[:, 0].tolist() == [(i + 1) * length for i, length in enumerate(LENGTHS)]


def shapes_seen(batching: Batching, lengths: list[int]) -> dict[int, tuple[int, ...]]:
    """The shape of the forward pass of each row, by its number; whether it was all tokens."""
    seen: dict[int, tuple[int, ...]] = {}

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for row in ids:
            if row.max() > 0:
                seen[int(row.max())] = (*ids.shape, int(mask.all()))
        return ids[:, 0]

    batching.outputs(rows_of(lengths), forward)
    return seen


def test_fixed_shapes_depend_on_the_row_alone() -> None:
    fixed, free = Batching("cpu", 10_000, 64, True), Batching("cpu", 10_000, 64, False)
    together = shapes_seen(fixed, LENGTHS * 9)
    for i, length in enumerate(LENGTHS):
        alone = shapes_seen(fixed, [length])[1]
        assert together[i + 1] == alone and alone[0] * alone[1] <= FIXED_TOKENS_CPU
    # The negative control: without, company decides.
    assert shapes_seen(free, LENGTHS * 9)[1] != shapes_seen(free, LENGTHS[:1])[1]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, byte_folder: Path) -> str:
    """A decoder saved without a padding id, wide enough that bfloat16 rounds visibly."""
    folder = tmp_path_factory.mktemp("classifier")
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        num_labels=1,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    Tokenizers.from_pretrained(byte_folder).save_pretrained(folder)
    return str(folder)


def test_scores_in_bfloat16_do_not_depend_on_company(classifier: str) -> None:
    """To the last bit, and with a head in float32: no two texts tie."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(2, 258, n).tolist() for n in rng.integers(1, 90, 60)]
    loaded = shared_classifier(classifier, "cpu", True)
    batching = Batching("cpu", 10_000, loaded.longest, fixed_shapes=True)
    together = loaded.log_odds(rows, 0, batching)
    alone = np.concatenate([loaded.log_odds([row], 0, batching) for row in rows])
    backwards = loaded.log_odds(rows[::-1], 0, batching)[::-1]
    assert together.tolist() == alone.tolist() == backwards.tolist()
    assert len(set(together.tolist())) == len(rows)
    exact = shared_classifier(classifier, "cpu", False).log_odds(rows, 0, batching)
    assert np.corrcoef(together, exact)[0, 1] > 0.99 and (together != exact).any()


def test_without_padding_the_last_token_is_scored_whatever_it_is(classifier: str) -> None:
    """Ids 0 and 1 are those one would pad with."""
    loaded = shared_classifier(classifier, "cpu", False)
    assert loaded.pad_id is None
    rows = [[5, 6, 0], [7, 8, 9, 1], [4], [0], [9, 0, 0]]
    got = loaded.log_odds(rows, 0, Batching("cpu", 10_000))
    # By hand, one row at a time, as a model without padding is run: the last position.
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    with torch.no_grad():
        expected = [model(torch.tensor([row])).logits.item() for row in rows]
    assert got == pytest.approx(expected, abs=1e-5)


def test_the_side_a_tokenizer_pads_on_does_not_matter(classifier: str) -> None:
    loaded = shared_classifier(classifier, "cpu", False)
    left = Tokenizers.from_pretrained(classifier, padding_side="left", truncation_side="left")
    other = LoadedClassifier(loaded.model, left, loaded.pad_id, loaded.longest)
    texts = ["a", "a longer one", "two words"]
    for one in (loaded, other):
        rows, cut = one.encode(texts, 8, special=True)
        assert cut == 2 and [len(row) for row in rows] == [1, 8, 8]
    assert loaded.encode(texts, 8, special=True) == other.encode(texts, 8, special=True)
