"""Reward models: what is trained is what is read, in one forward pass; seeds, LoRA, bad input."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig

from agents.config import LoRAConfig
from agents.policy import CausalLMPolicy
from agents.preferences import Ranking
from agents.reward_modeling import RewardModelingConfig, train_ensemble, train_reward_model
from agents.reward_modeling.initialisation import begin_reward_model
from agents.reward_modeling.scorer import AnswerScorer
from agents.reward_modeling.training import encode
from textenvs.errors import ConfigError, ModelError, UnknownNameError
from textenvs.rewards import Ensemble, RewardModel
from textenvs.rewards.learned.model_texts import CHAT, PLAIN_TEMPLATE
from textenvs.types import Episode, Prompt
from textenvs.vector_env import TextVectorEnv

KINDS = ("llama", "gpt2", "qwen2", "bert")
QUICK = RewardModelingConfig(learning_rate=3e-3, batch_size=4, bfloat16=False)
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}{{ eos_token }}{% endfor %}"


def toy_rankings(count: int, *, start: int = 0) -> list[Ranking]:
    """The more often an answer says "z", the better; lengths say nothing."""
    rng = np.random.default_rng(start)
    rankings = []
    for number in range(start, start + count):
        share = rng.permutation(4)[: 2 + number % 3]
        answers = ["".join(rng.permutation(list("z" * k + "ab" * (4 - k)))) for k in share]
        ranks = tuple(int(3 - k) for k in share)
        rankings.append(Ranking(f"Question {number}: ", tuple(answers), ranks, f"g{number}"))
    return rankings


@pytest.fixture
def base_folder(
    model_folder: Callable[..., Path], byte_folder: Path, tmp_path: Path
) -> Callable[[str], Path]:
    """Return a writer of folders with a causal model, or with an encoder ("bert")."""

    def write(kind: str) -> Path:
        if kind != "bert":
            return model_folder(kind)
        from transformers import AutoModel

        config = BertConfig(
            vocab_size=258,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            initializer_range=0.4,
        )
        folder = tmp_path / "bert"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            AutoModel.from_config(config).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((byte_folder / name).read_bytes())
        return folder

    return write


def by_hand(folder: Path, text: str) -> float:
    """The logit of a text by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).logits.item()


def trained_scores(scorer: AnswerScorer, rankings: Sequence[Ranking]) -> torch.Tensor:
    encoded, _ = encode(scorer, rankings, 512)
    return scorer.scores([ranking.rows for ranking in encoded])


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_reading_give_one_score(
    kind: str, base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """The scorer, `RewardModel` on the saved folder, and transformers by hand agree."""
    rankings = toy_rankings(5)
    found = train_reward_model(rankings, tmp_path / "rm", model=base_folder(kind), config=QUICK)
    assert found.shares_prompts == (kind != "bert")
    scorer = AnswerScorer(begin_reward_model(found.folder), PLAIN_TEMPLATE)
    with torch.no_grad():
        scores = trained_scores(scorer, rankings).numpy()
    texts = [(r.prompt, answer) for r in rankings for answer in r.answers]
    read = RewardModel(found.folder, bfloat16=False).raw_scores(texts)
    assert scores == pytest.approx(read, abs=1e-5) and np.ptp(read) > 0.01
    assert scores[3] == pytest.approx(by_hand(found.folder, "".join(texts[3])), abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_sharing_the_prompt_changes_neither_scores_nor_gradients(
    kind: str, base_folder: Callable[[str], Path]
) -> None:
    folder = base_folder(kind)
    # One text continues another, and one ranking has no common beginning at all.
    rankings = [
        *toy_rankings(3),
        Ranking("ab", ("c", "cd", "cde"), (0, 1, 2), "g"),
        Ranking("", ("xyz", "uvw"), (0, 1), "h"),
    ]
    results = []
    for shares in (True, False):
        scorer = AnswerScorer(begin_reward_model(folder), PLAIN_TEMPLATE)
        assert scorer.shares_prompts
        scorer.shares_prompts = shares
        scores = trained_scores(scorer, rankings)
        scores.square().sum().backward()
        grads = [p.grad.flatten() for p in scorer.loaded.model.parameters() if p.grad is not None]
        results.append((scores.detach(), torch.cat(grads)))
    (shared, shared_grads), (alone, alone_grads) = results
    assert torch.allclose(shared, alone, atol=1e-5) and shared.std() > 0.01
    assert (shared_grads - alone_grads).abs().max() < 1e-4 * alone_grads.abs().max()


def test_sharing_is_given_up_where_it_would_change_scores(
    base_folder: Callable[[str], Path],
) -> None:
    """A trunk with the head of a decoder that looks ahead: the probe finds it out."""
    loaded = begin_reward_model(base_folder("llama"))
    assert AnswerScorer(loaded, PLAIN_TEMPLATE).shares_prompts

    def look_ahead(module: Any, inputs: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.mean(
            1, keepdim=True
        )
        return output

    loaded.model.model.register_forward_hook(look_ahead)
    assert not AnswerScorer(loaded, PLAIN_TEMPLATE).shares_prompts


@pytest.mark.parametrize("padding", ["<pad>", "<eos>"])
def test_pad_equal_to_eos_is_read_as_it_is_trained(
    padding: str, base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """The chat template ends every text with EOS, which may be the padding."""
    folder = base_folder("llama")
    for name, key, value in (
        ("config.json", "pad_token_id", 1 if padding == "<eos>" else 0),
        ("tokenizer_config.json", "pad_token", padding),
        ("tokenizer_config.json", "chat_template", CHAT_TEMPLATE),
    ):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, key: value}))
    rankings = toy_rankings(4)
    found = train_reward_model(rankings, tmp_path / "rm", model=folder, config=QUICK)
    assert found.pads_with_eos == (padding == "<eos>") and found.reward.template == CHAT
    scorer = AnswerScorer(begin_reward_model(found.folder), CHAT)
    assert scorer.shares_prompts
    with torch.no_grad():
        scores = trained_scores(scorer, rankings).numpy()
    texts = [(r.prompt, answer) for r in rankings for answer in r.answers]
    assert scores == pytest.approx(found.reward.raw_scores(texts), abs=1e-5)
    whole = f"u:{texts[0][0]}<eos>a:{texts[0][1]}<eos>"
    assert scores[0] == pytest.approx(by_hand(found.folder, whole), abs=1e-5)


def test_a_model_without_padding_is_given_some(
    base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = base_folder("gpt2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))
    found = train_reward_model(toy_rankings(4), tmp_path / "rm", model=folder, config=QUICK)
    assert json.loads((found.folder / "config.json").read_text())["pad_token_id"] == 0


def test_it_learns_what_is_better(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Held-out pairs; rates fall to 0; the scale is that of the references."""
    lines: list[dict[str, Any]] = []
    config = RewardModelingConfig(learning_rate=1e-2, batch_size=8, epochs=2, bfloat16=False)
    train, test = toy_rankings(160), toy_rankings(60, start=500)
    references = [(r.prompt, answer) for r in test for answer in r.answers]
    found = train_reward_model(
        train,
        tmp_path / "rm",
        model=model_folder(),
        config=config,
        references=references,
        log=lambda values: lines.append(dict(values)),
    )
    assert len(lines) == found.steps == 40 and found.cut == 0
    assert lines[0]["learning_rate"] == 1e-2
    assert lines[-1]["learning_rate"] == pytest.approx(1e-2 / 40)
    assert lines[0]["loss"] > 0.5 > found.loss
    reward = RewardModel(found.folder, bfloat16=False)
    scores = reward([Episode(Prompt("", p), a) for p, a in references]).scores
    assert abs(scores.mean()) < 1e-6 and scores.std() == pytest.approx(1)
    own = dict(zip(references, scores, strict=True))
    right = [
        (own[r.prompt, a] > own[r.prompt, b])
        for r in test
        for a, i in zip(r.answers, r.ranks, strict=True)
        for b, j in zip(r.answers, r.ranks, strict=True)
        if i < j
    ]
    assert np.mean(right) > 0.9


def test_micro_batches_change_nothing_and_seeds_do(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder, rankings = model_folder(), toy_rankings(8)

    def weights(name: str, seed: int = 0, **settings: Any) -> dict[str, torch.Tensor]:
        config = RewardModelingConfig(
            **{**vars(QUICK), "adam_epsilon": 1e-3, "centring_coef": 0.1, **settings}
        )
        options = {"model": folder, "config": config, "seed": seed}
        found = train_reward_model(rankings, tmp_path / name, **options)
        model = AutoModelForSequenceClassification.from_pretrained(found.folder)
        return dict(model.state_dict())

    once, cut = weights("once"), weights("cut", micro_batch_tokens=1)
    assert max((once[k] - cut[k]).abs().max() for k in once) < 1e-5
    again = weights("again")
    assert all(torch.equal(v, again[k]) for k, v in once.items())
    other, uncentred = weights("other", seed=1), weights("uncentred", centring_coef=0.0)
    assert (once["score.weight"] - other["score.weight"]).abs().max() > 0.1
    assert (once["score.weight"] - uncentred["score.weight"]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_lora_trains_adapters_and_head_and_saves_a_plain_model(
    kind: str, base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, options = base_folder(kind), LoRAConfig(r=2)
    loaded = begin_reward_model(folder, lora=options)
    trained = [n for n, p in loaded.model.named_parameters() if p.requires_grad]
    assert all("lora" in n or "score" in n or "classifier" in n for n in trained) and trained
    found = train_reward_model(
        toy_rankings(6), tmp_path / "rm", model=folder, config=QUICK, lora=options
    )
    assert not (found.folder / "adapter_config.json").exists()
    assert found.shares_prompts == (kind != "bert")
    fresh = begin_reward_model(folder).model.state_dict()
    saved = AutoModelForSequenceClassification.from_pretrained(found.folder).state_dict()
    assert saved.keys() == fresh.keys()
    assert any("score" in k or "classifier" in k for k in saved if not saved[k].equal(fresh[k]))
    assert any("embed" in k or "wte" in k for k in saved if saved[k].equal(fresh[k]))


def test_the_head_is_drawn_as_published(model_folder: Callable[..., Path]) -> None:
    """N(0, 1 / (d + 1)): over many seeds, the variance of 16 weights each."""
    draws = torch.cat(
        [begin_reward_model("tiny-lm", seed=s).model.score.weight[0].detach() for s in range(3)]
    )
    assert draws.var() * (192 + 1) == pytest.approx(1, abs=0.25)
    head = begin_reward_model(model_folder(), seed=4).model.score.weight
    assert torch.equal(head, begin_reward_model(model_folder(), seed=4).model.score.weight)
    assert not torch.equal(head, begin_reward_model(model_folder(), seed=5).model.score.weight)


def test_a_reward_model_goes_on_and_a_critic_begins_from_it(
    model_folder: Callable[..., Path], byte_tokenizer: Any, tmp_path: Path
) -> None:
    base = model_folder()
    found = train_reward_model(toy_rankings(6), tmp_path / "rm", model=base, config=QUICK)
    head = AutoModelForSequenceClassification.from_pretrained(found.folder).score.weight
    assert torch.equal(begin_reward_model(found.folder, seed=9).model.score.weight, head)
    policy = CausalLMPolicy.from_pretrained(
        base, critic="separate", critic_from=found.folder, bfloat16=False
    )
    assert torch.equal(policy.value_head.weight, head)


def test_an_ensemble_is_one_reward(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    rankings = toy_rankings(6)
    members = train_ensemble(
        rankings, tmp_path, members=2, seed=3, model=model_folder(), config=QUICK
    )
    assert [m.folder.name for m in members] == ["seed-3", "seed-4"]
    episodes = [Episode(Prompt("", r.prompt), r.answers[0]) for r in rankings]
    united = Ensemble([member.reward for member in members])(episodes)
    own = [member.reward(episodes).scores for member in members]
    assert united.scores == pytest.approx(np.mean(own, 0)) and not np.allclose(*own)
    with pytest.raises(ConfigError, match="at least 1 member, got 0"):
        train_ensemble(rankings, tmp_path, members=0)


def test_policy_and_reward_model_may_have_different_tokenizers(
    make_model: Callable[..., Any], byte_tokenizer: Any, tmp_path: Path
) -> None:
    """The policy writes bytes, the reward model reads whole words: texts go between them."""
    words = ["<pad>", "<unk>", "good", "bad", "say", "a", "b"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "words"
    make_model("llama", vocab_size=len(words)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>"}'
    )
    rankings = [Ranking(f"say {x} ", ("good", "bad"), (0, 1), x) for x in "ab" * 8]
    found = train_reward_model(rankings, tmp_path / "rm", model=folder, config=QUICK)
    venv = TextVectorEnv(
        prompts=[Prompt("p", "say a ")],
        reward=found.reward,
        tokenizer=byte_tokenizer,
        num_envs=2,
        max_prompt_tokens=8,
        max_new_tokens=4,
    )
    paid = venv.unwrapped.score_batch([venv.prompts[0]] * 2, ["good", "bad"])
    raw = found.reward.raw_scores([("say a ", "good"), ("say a ", "bad")])
    assert paid.scores == pytest.approx((raw - found.reward.mean) / found.reward.std)
    assert paid.scores[0] > paid.scores[1]


def test_long_prompts_lose_their_beginning_and_are_counted(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """By the setting, and by the model's window of 256 positions."""
    rankings = [Ranking("x" * 300 + str(i), ("a", "b"), (0, 1), str(i)) for i in range(3)]
    found = train_reward_model(rankings, tmp_path / "rm", model=model_folder(), config=QUICK)
    assert (found.cut, found.longest) == (6, 256)
    scores = found.reward.raw_scores([("x" * 300, "a"), ("y" * 50 + "x" * 255, "a")])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    short = RewardModelingConfig(**{**vars(QUICK), "max_tokens": 8})
    found = train_reward_model(rankings, tmp_path / "short", model=model_folder(), config=short)
    assert (found.cut, found.longest) == (6, 8) and RewardModel(found.folder).max_tokens == 8


def test_what_cannot_be_a_reward_model_is_refused(
    model_folder: Callable[..., Path], base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    rankings = toy_rankings(3)
    with pytest.raises(ConfigError, match="no rankings to train on; `textenvs preferences`"):
        train_reward_model([], tmp_path / "rm")
    with pytest.raises(ModelError, match="lower learning_rate, got 1e\\+30"):
        config = RewardModelingConfig(learning_rate=1e30, batch_size=1, bfloat16=False)
        train_reward_model(rankings, tmp_path / "rm", model=model_folder(), config=config)
    with pytest.raises(ModelError, match="has no chat template"):
        config = RewardModelingConfig(template=CHAT)
        train_reward_model(rankings, tmp_path / "rm", model=model_folder(), config=config)
    with pytest.raises(ModelError, match="a reward model has one; begin from the model it was"):
        config = BertConfig.from_pretrained(base_folder("bert"), num_labels=3)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "three")
        begin_reward_model(tmp_path / "three")
    with pytest.raises(UnknownNameError, match="unknown model 'no-such-model'"):
        begin_reward_model("no-such-model")
    with pytest.raises(ConfigError, match="learning_rate must be above 0, got 0"):
        RewardModelingConfig(learning_rate=0)
    with pytest.raises(ConfigError, match="template must hold the field {completion}"):
        RewardModelingConfig(template="")
