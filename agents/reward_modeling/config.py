"""Settings of reward modelling."""

import dataclasses

from agents.validation import count, not_negative, positive
from textenvs.rewards.learned.model_texts import check_template


@dataclasses.dataclass(frozen=True)
class RewardModelingConfig:
    """How a reward model is trained on rankings.

    Attributes:
        epochs: Passes over the rankings; one, because a second overfits (InstructGPT,
            arXiv:2203.02155, section 3.5).
        batch_size: Rankings an optimiser step, each with all of its answers.
        learning_rate: AdamW's step size at the start; it falls to 0 linearly. The default is
            for a model of some million weights; InstructGPT took 9e-6 for 6 billion.
        weight_decay: AdamW's decay.
        adam_epsilon: Adam's epsilon (1e-5, as in lm-human-preferences).
        max_grad_norm: Gradient clip; None does not clip.
        centring_coef: Weight of `centring_loss` (arXiv:2312.09244: 0.01); 0 leaves it out.
        micro_batch_tokens: Tokens a forward pass, padding included; a ranking that has more
            goes alone. It changes memory, not the loss.
        max_tokens: Longest text in tokens, the model's own limit where that is less; longer
            ones lose tokens on the left, so that the answer is kept.
        template: How prompt and answer become one text, as in `RewardModel`: with the fields
            {prompt} and {completion}, or "chat"; None is "chat" where the tokenizer has a
            chat template, else "{prompt}{completion}".
        bfloat16: Compute under autocast; None does so where the processor is fast at it.
    """

    epochs: int = 1
    batch_size: int = 16
    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    adam_epsilon: float = 1e-5
    max_grad_norm: float | None = 1.0
    centring_coef: float = 0.0
    micro_batch_tokens: int = 4096
    max_tokens: int = 512
    template: str | None = None
    bfloat16: bool | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        count(self, "epochs", "batch_size", "micro_batch_tokens", "max_tokens")
        positive(self, "learning_rate", "adam_epsilon", "max_grad_norm")
        not_negative(self, "weight_decay", "centring_coef")
        check_template(self.template)
