"""Policies for Stable-Baselines3: a small transformer, or a whole language model.

Stable-Baselines3's algorithms ask a policy for one observation at a time, so each action
costs a pass over the whole prompt; `agents.PPO` keeps a cache and pays one row a sequence.
Use these to compare with what people know, or for an algorithm only it has.
"""

from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from agents.config import Critic, LoRAConfig
from agents.policy import CausalLMPolicy
from textenvs.decoding import autocast, positions
from textenvs.errors import ConfigError, MissingDependencyError

try:
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
except ImportError as error:
    raise MissingDependencyError(
        "stable_baselines3", "agents.sb3", 'pip install "textenvs[agents]"'
    ) from error

MAX_VOCABULARY = 2**24
"""Stable-Baselines3 hands observations over as float32, which holds integers up to here."""


class Reading(NamedTuple):
    """The real tokens of each row, moved so that the newest is in the last column.

    Attributes:
        input_ids: int64 [B, W], W the most real tokens of a row.
        mask: bool [B, W], the real tokens.
        columns: int64 [B, W], where in the observation each token stands.
    """

    input_ids: Tensor
    mask: Tensor
    columns: Tensor


def read_observation(observation: dict[str, Tensor]) -> Reading:
    """Return the real tokens of a batch of observations.

    Args:
        observation: `input_ids` and `attention_mask`, [B, P + T], of any number type.
    """
    mask = observation["attention_mask"].bool()
    newest = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    width = max(1, int((newest - mask.int().argmax(1)).max()) + 1)
    back = torch.arange(width - 1, -1, -1, device=mask.device)
    columns = newest[:, None] - back
    inside = columns >= 0
    columns = columns.clamp_min(0)
    ids = observation["input_ids"].long().gather(1, columns)
    return Reading(ids, mask.gather(1, columns) & inside, columns)


def vocabulary_size(observation_space: spaces.Space[Any]) -> int:
    """Return V of a text environment's observation space.

    Raises:
        ConfigError: if it is another space, or V is above `MAX_VOCABULARY`.
    """
    keys = {"input_ids", "attention_mask"}
    if not isinstance(observation_space, spaces.Dict) or not keys <= set(observation_space):
        raise ConfigError(
            f"the policy reads {sorted(keys)} of a text environment, got the observation space "
            f"{observation_space!r:.120}; give it a textenvs environment"
        )
    size = int(observation_space["input_ids"].high.max()) + 1  # type: ignore[attr-defined]
    if size > MAX_VOCABULARY:
        raise ConfigError(
            f"Stable-Baselines3 turns token ids into float32, exact up to {MAX_VOCABULARY}, but "
            f"the vocabulary has {size} tokens; use agents.PPO"
        )
    return size


class TransformerExtractor(BaseFeaturesExtractor):
    """A small transformer over the tokens so far; the feature is that of the newest one.

    ```python
    policy_kwargs = {"features_extractor_class": TransformerExtractor,
                     "features_extractor_kwargs": {"width": 64, "n_layers": 2}}
    PPO("MultiInputPolicy", SB3VecEnv(venv), policy_kwargs=policy_kwargs)
    ```

    Pre-norm blocks with learned embeddings of ids and of the observation's columns, where
    every completion begins in the same one. Every token is known when an action is chosen,
    so attention goes both ways.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        width: int = 64,
        n_layers: int = 1,
        n_heads: int = 4,
    ) -> None:
        """Make the layers.

        Args:
            observation_space: Of a text environment.
            width: Of embeddings and features, a multiple of `n_heads`.
            n_layers: Number of blocks, at least 1.
            n_heads: Attention heads, at least 1.

        Raises:
            ConfigError: if a size is out of range, or the space is no text environment's.
        """
        if n_layers < 1 or n_heads < 1 or width < 1 or width % n_heads:
            raise ConfigError(
                "n_layers, n_heads and width must be at least 1 and width a multiple of n_heads, "
                f"got n_layers={n_layers}, n_heads={n_heads}, width={width}"
            )
        super().__init__(observation_space, width)
        vocab_size = vocabulary_size(observation_space)
        columns = observation_space["input_ids"].shape[0]  # type: ignore[index]
        self.tokens = nn.Embedding(vocab_size, width)
        self.places = nn.Embedding(columns, width)
        self.blocks = nn.ModuleList(Block(width, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return float32 [B, width]."""
        ids, mask, columns = read_observation(observations)
        x = self.tokens(ids) + self.places(columns)
        # A padding query may look at itself: a softmax over nothing would be NaN.
        itself = torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
        allowed = mask[:, None, None, :] | itself
        for block in self.blocks[:-1]:
            x = block(x, x, allowed)
        # Of the last block only the newest token's output is read.
        return self.norm(self.blocks[-1](x[:, -1:], x, allowed[:, :, -1:])[:, 0])


class Block(nn.Module):
    """Pre-norm attention and feed-forward layer, each with a residual connection."""

    def __init__(self, width: int, n_heads: int) -> None:
        """Make the layers; `width` is a multiple of `n_heads`."""
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, context: Tensor, allowed: Tensor) -> Tensor:
        """Return float32 [B, Q, width].

        Args:
            x: float32 [B, Q, width], what is updated.
            context: float32 [B, K, width], what is looked at, the same layer's input.
            allowed: bool [B, 1, Q, K].
        """
        seen = self.norm(context)
        query, key, value = self.query(self.norm(x)), self.key(seen), self.value(seen)
        query, key, value = (
            states.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for states in (query, key, value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.feed_forward(x)


class CausalLMExtractor(BaseFeaturesExtractor):
    """A causal language model; the features are its next-token logits and last hidden state."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        model: str | Path | CausalLMPolicy = "tiny-lm",
        critic: Critic | None = None,
        lora: LoRAConfig | bool | None = None,
        temperature: float | None = None,
        bfloat16: bool | None = None,
    ) -> None:
        """Load the model.

        Args:
            observation_space: Of a text environment with the model's own tokenizer.
            model: A name or folder as in `CausalLMPolicy.from_pretrained`, or a policy, which
                is then trained in place and leaves nothing to set.
            critic: "shared", the default, or "separate", as in `CausalLMPolicy`.
            lora: As in `CausalLMPolicy.from_pretrained`.
            temperature: Logits are divided by it; by default 1.
            bfloat16: Compute under autocast. Off by default: the batches of a rollout and of an
                update differ, and in bfloat16 so would their log-probabilities.

        Raises:
            ConfigError: if the space is no text environment's, or a policy is given settings.
            ModelError: if the model knows fewer tokens than the environment.
        """
        vocab_size = vocabulary_size(observation_space)
        settings: dict[str, Any] = {
            "critic": critic,
            "lora": lora,
            "temperature": temperature,
            "bfloat16": bfloat16,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        if not isinstance(model, CausalLMPolicy):
            model = CausalLMPolicy.from_pretrained(model, **{"bfloat16": False, **given})
        elif given:
            raise ConfigError(
                f"model is a CausalLMPolicy, which has its settings, but got {given} as well; "
                "set them where the policy is made"
            )
        model.check_vocabulary(vocab_size)
        super().__init__(observation_space, vocab_size + model.value_head.in_features)
        self.lm = model

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return float32 [B, V + H]: logits over the temperature, and the critic's state."""
        lm = self.lm
        ids, mask, _ = read_observation(observations)
        shared = lm.critic_trunk is None
        with autocast(lm.use_bfloat16, ids.device):
            output = _last_token(lm.model, ids, mask, hidden=shared)
            critic = output if shared else _last_token(lm.critic_trunk, ids, mask, hidden=True)
        logits = output.logits[:, -1, : lm.vocab_size].float() / lm.temperature
        return torch.cat([logits, critic.hidden_states[-1][:, -1].float()], 1)


def _last_token(model: Any, ids: Tensor, mask: Tensor, *, hidden: bool) -> Any:
    return model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions(mask),
        use_cache=False,
        output_hidden_states=hidden,
        logits_to_keep=1,
    )


class ActorCriticSplit(nn.Module):
    """Parts the features of `CausalLMExtractor`; in the place of Stable-Baselines3's MLPs."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        """Remember V and H."""
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = vocab_size, hidden_size

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, V] and hidden states [B, H] of features [B, V + H]."""
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        """Return the logits, [B, V]."""
        return features[:, : self.latent_dim_pi]

    def forward_critic(self, features: Tensor) -> Tensor:
        """Return the hidden states, [B, H]."""
        return features[:, self.latent_dim_pi :]


class CausalLMActorCriticPolicy(ActorCriticPolicy):
    """A Hugging Face causal language model as a policy of Stable-Baselines3's PPO and A2C.

    ```python
    PPO(CausalLMActorCriticPolicy, SB3VecEnv(venv), policy_kwargs={"model": "tiny-lm"})
    ```

    The actor's logits are the model's own; the value is a linear layer on the last hidden
    state, zero at the start. `MaskableCausalLMPolicy` of `agents.sb3_maskable` is the same
    for sb3-contrib's `MaskablePPO`.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any,
        *,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        use_sde: bool = False,
        **model: Any,
    ) -> None:
        """Build the policy; Stable-Baselines3 gives the first three arguments.

        Args:
            observation_space: Of a text environment.
            action_space: `Discrete(V)`.
            lr_schedule: From the remaining progress to the learning rate.
            optimizer_class: The optimiser.
            optimizer_kwargs: Its options but the learning rate.
            use_sde: Must be False; Stable-Baselines3 passes it.
            **model: Options of `CausalLMExtractor`: `model`, `critic`, `lora`, `temperature`,
                `bfloat16`.
        """
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            use_sde=use_sde,
            features_extractor_class=CausalLMExtractor,
            features_extractor_kwargs=model,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )

    def _build(self, lr_schedule: Any) -> None:
        assemble(self, lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return constructor_parameters(self)

    @property
    def lm(self) -> CausalLMPolicy:
        """The language model, as the agents of this package know it."""
        return cast(CausalLMExtractor, self.features_extractor).lm

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a Hugging Face folder and the critic; see `CausalLMPolicy.save_pretrained`."""
        return self.lm.save_pretrained(folder)


def assemble(policy: Any, lr_schedule: Any) -> None:
    """Give a policy the networks of its `CausalLMExtractor`, and its optimiser."""
    lm = policy.features_extractor.lm
    policy.mlp_extractor = ActorCriticSplit(lm.vocab_size, lm.value_head.in_features)
    policy.action_net = nn.Identity()
    policy.value_net = lm.value_head
    policy.optimizer = policy.optimizer_class(
        policy.parameters(), lr=lr_schedule(1), **policy.optimizer_kwargs
    )


def constructor_parameters(policy: Any) -> dict[str, Any]:
    """Return the arguments that make a policy again, before its weights are loaded."""
    return {
        "observation_space": policy.observation_space,
        "action_space": policy.action_space,
        "lr_schedule": policy._dummy_schedule,
        "optimizer_class": policy.optimizer_class,
        "optimizer_kwargs": policy.optimizer_kwargs,
        **policy.features_extractor_kwargs,
    }
