"""`CausalLMPolicy`: any Hugging Face causal language model as an actor-critic."""

import copy
import json
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from agents.config import Critic, LoRAConfig
from textenvs.decoding import CachedDecoder, DecodeState, autocast, positions
from textenvs.errors import (
    CheckpointError,
    ConfigError,
    ModelError,
    TextEnvsError,
    UnknownNameError,
)
from textenvs.models import has_fast_bfloat16, load_causal_lm
from textenvs.reference import CausalLMReference
from textenvs.tokenization import TextTokenizer, load_tokenizer

VALUE_HEAD = "value_head.safetensors"
POLICY_FILE = "policy.json"


class Acted(NamedTuple):
    """One token a row.

    Attributes:
        tokens: int64 [B].
        logprobs: float32 [B], log pi of each token.
        state: Pass it to the next call.
    """

    tokens: Tensor
    logprobs: Tensor
    state: DecodeState


class Evaluation(NamedTuple):
    """What the policy says of finished completions.

    Attributes:
        logprobs: float32 [B, T], of the tokens that were acted, 0 behind the end.
        entropy: float32 [B, T], of the distribution each was drawn from, in nats.
        values: float32 [B, T + 1], before each token and after the last.
    """

    logprobs: Tensor
    entropy: Tensor
    values: Tensor


class CausalLMPolicy(nn.Module):
    """Actor, critic and reference around one causal language model.

    The value head is a linear layer on the last hidden state, zero at the start, so that
    the first advantages are the rewards themselves. Dropout is off: a policy that is
    random in its weights would disagree with its own log-probabilities.
    """

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: TextTokenizer | None = None,
        critic: Critic = "shared",
        lora: LoRAConfig | None = None,
        temperature: float = 1.0,
        bfloat16: bool | None = None,
    ) -> None:
        """Wrap a model.

        Args:
            model: A Hugging Face causal language model.
            tokenizer: Its tokenizer, saved beside it and used to bound the vocabulary.
            critic: "shared" puts the value head on the policy's trunk, "separate" on a
                trunk of its own that starts as a copy.
            lora: Train low-rank adapters instead of all weights.
            temperature: Logits are divided by it, when acting and when evaluating alike.
            bfloat16: Compute under autocast; None does so where the processor is fast at it.

        Raises:
            ConfigError: if the temperature is not above 0.
            UnknownNameError: if the critic is neither "shared" nor "separate".
        """
        super().__init__()
        if critic not in get_args(Critic):
            raise UnknownNameError("critic", critic, get_args(Critic))
        if not temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {temperature}; the default is 1")
        self.critic, self.lora, self.temperature = critic, lora, temperature
        self.tokenizer = tokenizer
        self.source = str(model.config._name_or_path)  # where the base weights can be had again
        self.critic_trunk = copy.deepcopy(model) if critic == "separate" else None
        self.model = model if lora is None else _with_adapters(model, lora)
        config = model.config.get_text_config(decoder=True)
        self.value_head = nn.Linear(config.hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        device = next(model.parameters()).device
        self.value_head.to(device)
        self.use_bfloat16 = has_fast_bfloat16(device) if bfloat16 is None else bfloat16
        known = int(model.get_output_embeddings().weight.shape[0])
        self.vocab_size = known if tokenizer is None else tokenizer.vocab_size
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        critic: Critic = "shared",
        lora: LoRAConfig | bool | None = None,
        temperature: float = 1.0,
        bfloat16: bool | None = None,
        device: str = "cpu",
    ) -> "CausalLMPolicy":
        """Load a policy from a model name or folder, with its value head where there is one.

        Args:
            name: `"tiny-lm"`, `"smollm2-135m"`, a folder of `save_pretrained`, a hub name.
            critic: As in the constructor.
            lora: True takes the default `LoRAConfig`.
            temperature: As in the constructor.
            bfloat16: As in the constructor.
            device: "cpu", "cuda", ...

        Raises:
            UnknownNameError: if the name leads nowhere.
            ModelError: if the folder holds no causal language model.
        """
        model = load_causal_lm(name).to(device)
        try:
            tokenizer: TextTokenizer | None = load_tokenizer(name)
        except TextEnvsError:
            tokenizer = None  # a bare model can still act in an environment that has one
        policy = cls(
            model,
            tokenizer=tokenizer,
            critic=critic,
            lora=LoRAConfig() if lora is True else lora or None,
            temperature=temperature,
            bfloat16=bfloat16,
        )
        policy.source = str(name)
        head = Path(name) / VALUE_HEAD
        if head.is_file():
            policy.load_critic(head)
        return policy

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.value_head.weight.device

    def check_vocabulary(self, vocab_size: int) -> None:
        """Bound the actions to an environment's vocabulary.

        Raises:
            ModelError: if the model knows fewer tokens than the environment.
        """
        CachedDecoder(self.model, vocab_size=vocab_size)
        self.vocab_size = vocab_size

    def train(self, mode: bool = True) -> "CausalLMPolicy":
        """Stay in evaluation mode: dropout is off in every pass."""
        return super().train(False)

    def act(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        state: DecodeState | None = None,
        fresh: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Acted:
        """Choose the next token of each row, with one cached forward pass.

        Args:
            input_ids: int64 [B, P + T], an observation.
            attention_mask: [B, P + T].
            state: Of the call before; None reads the whole observation.
            fresh: bool [B], rows whose episode has just begun.
            generator: Where chance comes from.
            deterministic: Take the likeliest token.
        """
        decoder = CachedDecoder(self.model, vocab_size=self.vocab_size, bfloat16=self.use_bfloat16)
        logits, state = decoder.next_token(input_ids, attention_mask, state, fresh)
        logprobs = (logits / self.temperature).log_softmax(-1)
        if deterministic:
            tokens = logprobs.argmax(-1)
        else:
            tokens = torch.multinomial(logprobs.exp(), 1, generator=generator)[:, 0]
        return Acted(tokens, logprobs.gather(-1, tokens[:, None])[:, 0], state)

    def evaluate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        start: int,
        *,
        with_values: bool = True,
        with_entropy: bool = True,
    ) -> Evaluation:
        """Return log-probabilities, entropy and values of completions, teacher-forced.

        One row a sequence; logits are made for completion positions alone.

        Args:
            input_ids: int64 [B, P + T], prompt left-padded, completion from `start` on.
            attention_mask: [B, P + T].
            start: P, the column of the first completion token.
            with_values: Whether the critic is asked; values are 0 otherwise.
            with_entropy: Whether the entropy keeps its gradient; it is computed either way.
        """
        mask = attention_mask.bool()
        first = int(mask.int().argmax(1).min())
        width = int(mask[:, start:].sum(1).max())
        ids, kept = input_ids[:, first : start + width], mask[:, first : start + width]
        shared = with_values and self.critic_trunk is None
        with autocast(self.use_bfloat16, ids.device):
            output = _forward(self.model, ids, kept, hidden=shared, logits_to_keep=width + 1)
            if with_values and self.critic_trunk is not None:
                critic = _forward(self.critic_trunk, ids, kept, hidden=True, logits_to_keep=1)
                hidden = critic.hidden_states[-1]
            elif shared:
                hidden = output.hidden_states[-1]
        logits = output.logits[:, :-1, : self.vocab_size].float() / self.temperature
        tokens, acted = ids[:, -width:], kept[:, -width:]
        normaliser = logits.logsumexp(-1)
        logprobs = (logits.gather(-1, tokens[..., None])[..., 0] - normaliser) * acted
        with torch.set_grad_enabled(with_entropy and torch.is_grad_enabled()):
            probabilities = (logits - normaliser[..., None]).exp()
            entropy = (normaliser - (probabilities * logits).sum(-1)) * acted
        values = torch.zeros(len(ids), width + 1, device=ids.device)
        if with_values:
            values = self.value_head(hidden[:, -width - 1 :].float())[..., 0]
        columns = input_ids.shape[1] - start
        return Evaluation(
            _widened(logprobs, columns), _widened(entropy, columns), _widened(values, columns + 1)
        )

    @torch.no_grad()
    def predict(
        self,
        observation: Mapping[str, np.ndarray],
        state: DecodeState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[np.ndarray, DecodeState]:
        """Choose actions, as Stable-Baselines3's `predict` does; the state is the KV cache.

        Args:
            observation: Of one environment or of a batch.
            state: What the call before returned; None reads the whole observation.
            episode_start: bool [B], rows that have just been reset.
            deterministic: Take the likeliest token.
            generator: Where chance comes from; None takes torch's own.
        """
        single = observation["input_ids"].ndim == 1
        arrays = {key: np.atleast_2d(value) for key, value in observation.items()}
        ids = torch.from_numpy(arrays["input_ids"]).to(self.device)
        mask = torch.from_numpy(arrays["attention_mask"]).to(self.device)
        fresh = None
        if episode_start is not None:
            fresh = torch.from_numpy(np.atleast_1d(np.asarray(episode_start, bool))).to(self.device)
        if not mask.any(1).all():
            raise ConfigError("an observation has no token to read; reset the environment first")
        acted = self.act(ids, mask, state, fresh, generator=generator, deterministic=deterministic)
        tokens = acted.tokens.cpu().numpy()
        return (tokens[0] if single else tokens), acted.state

    def without_adapters(self) -> AbstractContextManager[Any]:
        """Return a context in which the adapters are off, or nothing without LoRA."""
        return self.model.disable_adapter() if self.lora is not None else nullcontext()

    def reference(self) -> CausalLMReference:
        """Return the policy as it stands before training, to be kept close to.

        With LoRA it is the same model with the adapters off, no second copy in memory;
        otherwise a frozen copy.
        """
        if self.lora is not None:
            return CausalLMReference(
                self.model,
                temperature=self.temperature,
                bfloat16=self.use_bfloat16,
                frozen=self.without_adapters,
            )
        frozen = copy.deepcopy(self.model).requires_grad_(False)
        return CausalLMReference(frozen, temperature=self.temperature, bfloat16=self.use_bfloat16)

    def trainable_parameters(self, *, critic_only: bool = False) -> list[nn.Parameter]:
        """Return what an optimiser may change."""
        parts: list[nn.Module] = [self.value_head]
        if self.critic_trunk is not None:
            parts.append(self.critic_trunk)
        if not critic_only:
            parts.append(self.model)
        return [p for part in parts for p in part.parameters() if p.requires_grad]

    def merged_model(self) -> Any:
        """Return a plain model that acts as the policy does: adapters merged into a copy."""
        if self.lora is None:
            return self.model
        return copy.deepcopy(self.model).merge_and_unload()

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a plain Hugging Face folder, and the critic beside it.

        `AutoModelForCausalLM.from_pretrained` loads the folder; adapters are merged.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.merged_model().save_pretrained(folder)
        if self.tokenizer is not None:
            _save_tokenizer(self.tokenizer, folder)
        self.save_critic(folder / VALUE_HEAD)
        settings = {"critic": self.critic, "temperature": self.temperature}
        (folder / POLICY_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return folder

    def save_critic(self, path: Path) -> None:
        """Write the value head, and the critic's own trunk if it has one."""
        tensors = {f"value_head.{k}": v for k, v in self.value_head.state_dict().items()}
        if self.critic_trunk is not None:
            trunk = self.critic_trunk.state_dict()
            tensors |= {f"critic_trunk.{k}": v.clone() for k, v in trunk.items()}
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)

    def load_critic(self, path: Path) -> None:
        """Read what `save_critic` wrote.

        Raises:
            CheckpointError: if the file is of a critic of another shape.
        """
        tensors = load_file(path, device=str(self.device))
        own = {k: v for k, v in self.state_dict().items() if not k.startswith("model.")}
        if self.critic_trunk is None:  # a separate critic's head still serves a shared one
            tensors = {k: v for k, v in tensors.items() if k in own}
        wrong = [k for k in own if k not in tensors or tensors[k].shape != own[k].shape]
        if wrong:
            raise CheckpointError(
                f"{path} does not fit the critic {self.critic!r}: {wrong[0]} is missing or of "
                'another shape; load it with the critic="..." it was saved with'
            )
        self.load_state_dict(tensors, strict=False)


def _with_adapters(model: Any, lora: LoRAConfig) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    adapters = LoraConfig(
        r=lora.r,
        lora_alpha=cast(Any, lora.alpha),  # annotated int, used as a float
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    try:
        # peft draws from torch's global generator; the adapters begin the same every time.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.default_generator.manual_seed(0)
            # peft 0.21 reads a name that transformers 5 renamed.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            return get_peft_model(model, adapters)
    except ValueError as error:
        raise ModelError(f"this model cannot be given LoRA adapters: {error}") from error


def _forward(model: Any, ids: Tensor, mask: Tensor, *, hidden: bool, logits_to_keep: int) -> Any:
    return model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions(mask),
        use_cache=False,
        output_hidden_states=hidden,
        logits_to_keep=logits_to_keep,
    )


def _widened(values: Tensor, columns: int) -> Tensor:
    """Pad with zeros on the right to the environment's full width."""
    return nn.functional.pad(values, (0, columns - values.shape[1]))


def _save_tokenizer(tokenizer: TextTokenizer, folder: Path) -> None:
    """Copy a tokenizer's files, through transformers so that nothing is left out."""
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    backend = getattr(tokenizer, "backend", None)
    if not isinstance(backend, PreTrainedTokenizerBase):
        if not Path(tokenizer.name).is_dir():
            return
        backend = AutoTokenizer.from_pretrained(tokenizer.name)
    backend.save_pretrained(folder)
