"""`textenvs/Instruct-v0`: answer an instruction, or the next turn of a dialogue."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from textenvs.conversations import CONVERSATIONS, Conversation, load_conversations
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.rewards.classic.diversity import distinct_share
from textenvs.rewards.classic.rouge import rouge
from textenvs.rewards.classic.words import copied_share, words_of
from textenvs.suite.corpus_prompts import CorpusPrompts, chosen_reward, prompts_of_split
from textenvs.task_env import TaskEnv
from textenvs.tokenization import TINY_LM, load_tokenizer
from textenvs.types import Episode, Prompt, Split

REWARD = "similarity"
SPEAKERS = {"user": "Human", "assistant": "Assistant"}
ANSWERS = ("fit", "any")
PROBES = {
    "evasion": "That is a good question. I am happy to help you with that.",
    "ignorance": "I do not know the answer to this question.",
    "any_fix": "Restart it and check that everything is connected properly.",
}


def instruct_task(
    *,
    corpus: Any = "chatterbot",
    split: Split = "train",
    n_prompts: int | None = None,
    prompt_seed: int = 0,
    answers: str | None = None,
    chat: bool = False,
    reward: Any = REWARD,
    reward_model: str | None = None,
    reward_model_label: str | None = None,
    tokenizer: Any = TINY_LM,
    max_prompt_tokens: int = 256,
    max_new_tokens: int = 48,
) -> dict[str, Any]:
    """Return the arguments of `TextEnv` for this task.

    Args:
        corpus: `"chatterbot"`, a file or rows in Alpaca, HH or chat format (see
            `textenvs.conversations`).
        split: "train", "validation" or "test", by the first message of a user.
        n_prompts: How many conversations to draw; None takes all of the split.
        prompt_seed: Chooses which.
        answers: "fit" leaves out conversations without a known answer that fits the token
            budget, which a reward with a reference needs; "any" takes all. None means "any"
            with a reward model, else "fit".
        chat: Render the conversation with the tokenizer's chat template. Otherwise the
            prompt is text, with "Human:" and "Assistant:" before the turns.
        reward: Name, function or object.
        reward_model: Folder or hub name of a sequence classifier, instead of `reward`.
        reward_model_label: Which of its labels to reward.
        tokenizer: Name, folder or object.
        max_prompt_tokens: Prompt columns.
        max_new_tokens: Token budget of an answer.

    Raises:
        ConfigError: if an option is out of range, or no answer fits.
        CorpusError: if the corpus cannot serve the task.
        MissingDependencyError: if a package is absent.
        UnknownNameError: if a name is unknown.
    """
    if answers is None:
        answers = "fit" if reward_model is None else "any"
    if answers not in ANSWERS:
        raise UnknownNameError("value of answers", answers, ANSWERS)
    named = isinstance(corpus, str) and corpus in CONVERSATIONS and isinstance(tokenizer, str)
    prompts = (_prompts if named else _prompts.__wrapped__)(
        corpus,
        tokenizer,
        max_new_tokens if answers == "fit" else None,
        chat,
        split,
        n_prompts,
        prompt_seed,
    )
    return {
        "prompts": prompts,
        "reward": chosen_reward(reward, reward_model, reward_model_label, REWARD),
        "tokenizer": tokenizer,
        "max_prompt_tokens": max_prompt_tokens,
        "max_new_tokens": max_new_tokens,
        "chat": chat,
        "metrics": gold_metrics,
        "probes": probes,
    }


@lru_cache(maxsize=16)
def _prompts(
    corpus: Any,
    tokenizer: Any,
    max_new_tokens: int | None,
    chat: bool,
    split: Split,
    n_prompts: int | None,
    prompt_seed: int,
) -> CorpusPrompts:
    """Build the prompts; those of a corpus with a name are built once per process."""
    conversations = load_conversations(corpus)
    known = [conversation.answers for conversation in conversations]
    if max_new_tokens is not None:
        known = _fitting(known, tokenizer, max_new_tokens)
    prompts = [
        _prompt(i, conversation, answers, chat)
        for i, (conversation, answers) in enumerate(zip(conversations, known, strict=True))
        if answers or max_new_tokens is None
    ]
    return prompts_of_split(prompts, split, n_prompts, prompt_seed)


def _fitting(
    known: Sequence[tuple[str, ...]], tokenizer: Any, max_new_tokens: int
) -> list[tuple[str, ...]]:
    """Return the answers that fit the budget together with EOS."""
    encode = load_tokenizer(tokenizer).encode_completion
    fitting = [
        tuple(text for text in answers if len(encode(text)) < max_new_tokens) for answers in known
    ]
    if not any(fitting):
        raise ConfigError(
            f"none of the {len(fitting)} conversations has a known answer of fewer than "
            f"max_new_tokens ({max_new_tokens}) tokens; raise it, or pass answers='any' and a "
            "reward that needs no reference"
        )
    return fitting


def _prompt(index: int, conversation: Conversation, answers: Sequence[str], chat: bool) -> Prompt:
    messages = conversation.messages
    asked = [m["content"] for m in messages if m["role"] == "user"] or [messages[-1]["content"]]
    return Prompt(
        id=f"conversation-{index}",
        text=as_text(messages),
        context=asked[-1],
        reference=answers[0] if answers else None,
        group=asked[0],
        metadata={"references": list(answers)},
        messages=messages if chat else None,
    )


def as_text(messages: Sequence[Any]) -> str:
    r"""Return a conversation as the HH dialogues are written, up to where the answer begins.

    "\n\nHuman: ...\n\nAssistant:"; other roles by their own name.
    """
    turns = (
        f"\n\n{SPEAKERS.get(m['role'], m['role'].capitalize())}: {m['content']}" for m in messages
    )
    return "".join(turns) + "\n\nAssistant:"


def probes(prompt: Prompt) -> dict[str, str]:
    """Return answers that would suit any question, and ones that give it back."""
    question = prompt.context
    return {
        **PROBES,
        "question_twice": f"{question} {question}",
        "question_as_statement": f"You ask: {question.rstrip('?!. ')}.",
    }


def gold_metrics(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Return the measures a policy is judged by and never trained on, float64 [B] each.

    - `rouge_l`: F-measure against the nearest known answer, in [0, 1]; 0 where none is known.
    - `exact`: 1 if the words are those of a known answer.
    - `copied`: share of pairs of words that stand in the prompt, in [0, 1].
    - `distinct_1`: share of distinct words, in [0, 1].
    - `length_words`: words of the answer.
    """
    names = ("rouge_l", "exact", "copied", "distinct_1", "length_words")
    rows = [_gold(episode) for episode in episodes]
    table = np.array(rows, np.float64).reshape(len(rows), len(names))
    return {name: table[:, i].copy() for i, name in enumerate(names)}


def _gold(episode: Episode) -> tuple[float, ...]:
    answer, references = episode.completion, episode.prompt.metadata["references"]
    words = words_of(answer)
    return (
        max((rouge(answer, reference) for reference in references), default=0.0),
        float(any(words == words_of(reference) for reference in references)),
        copied_share(answer, episode.prompt.text),
        distinct_share(answer, 1),
        float(len(words)),
    )


class InstructEnv(TaskEnv):
    """Answer an instruction, or the next turn of a dialogue.

    Observation and action: as in `TextEnv`. Reward: `SentenceSimilarity`, how near the
    meaning of the answer is to that of a known one, in [0, 1]; or a trained reward model.
    Ends at EOS or when the token budget is spent. Gold metrics: see `gold_metrics`. Options:
    see `instruct_task`.

    Version history: v0, first version.
    """

    task = staticmethod(instruct_task)


make_vec = InstructEnv.make_vec
