"""What is imitated: token ids of a prompt and of the answer to it, and what was left out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from textenvs.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the tokens to be predicted after it.

    Attributes:
        prompt: Token ids that are read, at least one: it predicts the first of the answer.
        answer: Token ids that are predicted, at least one.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        """Return the tokens of both."""
        return len(self.prompt) + len(self.answer)


@dataclass
class Accounting:
    """What became of the rows of a data set; every row is kept, or counted as to why not.

    Attributes:
        rows: Rows that were read.
        kept: Examples made of them.
        empty_prompts: Rows left out because they ask nothing.
        empty_answers: Rows left out because they answer nothing.
        too_long: Rows left out because prompt and answer exceed the window.
        cut_answers: Kept examples whose answer was cut; they have no EOS.
        prompt_tokens: Of the kept examples.
        answer_tokens: Of the kept examples, EOS included: what the loss is a mean over.
    """

    rows: int = 0
    kept: int = 0
    empty_prompts: int = 0
    empty_answers: int = 0
    too_long: int = 0
    cut_answers: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def keep(self, example: Example, *, is_cut: bool) -> None:
        """Count an example that is kept; its row is counted by the caller."""
        self.kept += 1
        self.cut_answers += is_cut
        self.prompt_tokens += len(example.prompt)
        self.answer_tokens += len(example.answer)

    def __str__(self) -> str:
        """Return the counts in one line."""
        return (
            f"{self.kept} of {self.rows} examples kept ({self.prompt_tokens} prompt tokens, "
            f"{self.answer_tokens} answer tokens); left out: {self.too_long} too long, "
            f"{self.empty_answers} with an empty answer, {self.empty_prompts} with an empty "
            f"prompt; answers cut: {self.cut_answers}"
        )


@dataclass(frozen=True)
class Window:
    """How long examples may be, in tokens.

    Attributes:
        max_tokens: Prompt and answer together; longer ones are left out.
        max_answer_tokens: Longer answers are cut there and have no EOS, as an environment
            with this budget would cut them; None cuts none.
    """

    max_tokens: int
    max_answer_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse windows that hold no example."""
        if self.max_tokens < 2:
            raise ConfigError(
                f"max_tokens must be at least 2, a token to read and one to predict, got "
                f"{self.max_tokens}"
            )
        if self.max_answer_tokens is not None and self.max_answer_tokens < 1:
            raise ConfigError(
                f"max_answer_tokens must be at least 1, got {self.max_answer_tokens}; leave it "
                "out to cut no answer"
            )


@dataclass
class ExampleSet:
    """Examples, and the account of the rows they were made of."""

    examples: list[Example] = field(default_factory=list)
    accounting: Accounting = field(default_factory=Accounting)

    def add(
        self, prompt: Sequence[int], answer: Sequence[int], eos_id: int, window: Window
    ) -> None:
        """Take a row up as an example, or count why not.

        Args:
            prompt: Token ids.
            answer: Token ids without EOS, which is put behind.
            eos_id: Ends the answer.
            window: Bounds both.
        """
        count = self.accounting
        count.rows += 1
        if not len(prompt):
            count.empty_prompts += 1
            return
        if not len(answer):
            count.empty_answers += 1
            return
        whole = (*answer, eos_id)
        learned = whole[: window.max_answer_tokens]
        example = Example(tuple(map(int, prompt)), tuple(map(int, learned)))
        if len(example) > window.max_tokens:
            count.too_long += 1
            return
        count.keep(example, is_cut=len(learned) < len(whole))
        self.examples.append(example)

    def require_some(self, what: str, window: Window) -> "ExampleSet":
        """Return the set itself.

        Args:
            what: The data, for the message.
            window: That bounded the examples, for the message.

        Raises:
            ConfigError: if nothing was kept, with the counts of why.
        """
        if self.examples:
            return self
        raise ConfigError(
            f"no example of {what} is left: {self.accounting}. An example needs a prompt, an "
            f"answer, and at most {window.max_tokens} tokens in all (the window; raise "
            "max_tokens as far as the model's context allows, or cut answers with "
            "max_answer_tokens)"
        )


def batches_of(
    examples: Sequence[Example], draw: Callable[[int], Iterable[int]]
) -> Callable[[int], list[Example]]:
    """Return a function that draws so many examples.

    Args:
        examples: To draw from.
        draw: Returns so many indices.
    """
    return lambda count: [examples[i] for i in draw(count)]


def context_window(model: Any) -> int | None:
    """Return the most tokens that a model was built to read, None where it does not say."""
    config: Mapping[str, Any] = model.config.get_text_config(decoder=True).to_dict()
    known = config.get("max_position_embeddings") or config.get("n_positions")
    return int(known) if known else None
