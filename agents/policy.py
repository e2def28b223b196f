"""`CausalLMPolicy`: any Hugging Face causal language model as an actor-critic."""

import copy
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from agents.config import Critic, LoRAConfig
from agents.modeling import adapter_folders
from agents.modeling.adapters import with_adapters
from agents.modeling.critic import begin_from_reward_model, trunk_only
from agents.modeling.frozen_copy import frozen_copy
from agents.modeling.sampling import choose_tokens
from agents.modeling.tokenizer_files import save_tokenizer
from agents.modeling.trunks import recompute_blocks, train_top_layers
from textenvs.decoding import CachedDecoder, autocast
from textenvs.errors import (
    CheckpointError,
    ConfigError,
    TextEnvsError,
    UnknownNameError,
)
from textenvs.models import has_fast_bfloat16
from textenvs.reference import CausalLMReference
from textenvs.row_cache import DecodeState
from textenvs.teacher_forcing.logit_head import find_logit_head
from textenvs.teacher_forcing.packing import pack
from textenvs.teacher_forcing.scoring import score_completions
from textenvs.teacher_forcing.trunk import (
    base_model,
    forward_trunk,
    longest_shareable,
    trunk_of,
)
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
        critic_from: str | Path | None = None,
        trainable_layers: int | None = None,
        gradient_checkpointing: bool = False,
        compile: bool | str = False,
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
            critic_from: Folder of a reward model (`AutoModelForSequenceClassification`, one
                label, the policy's architecture) that a separate critic begins as.
            trainable_layers: Train only so many of the top blocks, with the final norm and an
                untied head; a shared critic then reads what they give, a separate one trains
                as many. `reference()` shares the frozen rest. None trains everything.
            gradient_checkpointing: Keep only the inputs of each block for the backward pass:
                less memory, about a third more arithmetic, the same gradients.
            compile: Compile the passes of `evaluate` with torch.compile: a quarter to a third
                less time after a minute or so of compiling, at the first updates. A string
                names another backend than "inductor". Sampling is not compiled.

        Raises:
            ConfigError: if the temperature is not above 0, a shared critic is to begin from a
                reward model, or `trainable_layers` does not fit the model or comes with LoRA.
            ModelError: if `critic_from` holds no reward model that fits.
            UnknownNameError: if the critic is neither "shared" nor "separate".
        """
        super().__init__()
        if critic not in get_args(Critic):
            raise UnknownNameError("critic", critic, get_args(Critic))
        if not temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {temperature}; the default is 1")
        if critic_from is not None and critic != "separate":
            raise ConfigError(
                f"critic_from={str(critic_from)!r} needs a trunk of the critic's own; "
                'pass critic="separate"'
            )
        if trainable_layers is not None and lora is not None:
            raise ConfigError(
                f"trainable_layers={trainable_layers} and LoRA exclude each other: adapters "
                "leave every layer frozen; use one of them"
            )
        self.critic, self.lora, self.temperature = critic, lora, temperature
        self.tokenizer = tokenizer
        self.source = str(model.config._name_or_path)  # where the base weights can be had again
        self.earlier_adapter: adapter_folders.LoadedAdapter | None = None
        if trainable_layers is not None:
            train_top_layers(model, trainable_layers)
        self.trainable_layers = trainable_layers
        self.critic_trunk = copy.deepcopy(trunk_of(model)) if critic == "separate" else None
        self.model = model if lora is None else with_adapters(model, lora)
        self.logit_head = find_logit_head(self.model)
        config = model.config.get_text_config(decoder=True)
        self.value_head = nn.Linear(config.hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        device = next(model.parameters()).device
        self.value_head.to(device)
        self.use_bfloat16 = has_fast_bfloat16(device) if bfloat16 is None else bfloat16
        known = int(model.get_output_embeddings().weight.shape[0])
        self.vocab_size = known if tokenizer is None else tokenizer.vocab_size
        if critic_from is not None:
            begin_from_reward_model(critic_from, self.critic_trunk, self.value_head, tokenizer)
        self.gradient_checkpointing, self.compiled = gradient_checkpointing, compile
        if gradient_checkpointing:
            recompute_blocks(trunk_of(self.model))
            if self.critic_trunk is not None:
                recompute_blocks(self.critic_trunk)
        trunks = [trunk_of(self.model), self.critic_trunk]
        self._forwards = [None if t is None else _forward_of(t, compile) for t in trunks]
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
        critic_from: str | Path | None = None,
        trainable_layers: int | None = None,
        gradient_checkpointing: bool = False,
        compile: bool | str = False,
        device: str = "cpu",
    ) -> "CausalLMPolicy":
        """Load a policy from a model name or folder, with its value head where there is one.

        Args:
            name: `"tiny-lm"`, `"smollm2-135m"`, a folder of `save_pretrained`, a hub name.
                Adapters in a folder are merged: `lora` trains new ones over them.
            critic: As in the constructor.
            lora: True takes the default `LoRAConfig`.
            temperature: As in the constructor.
            bfloat16: As in the constructor.
            critic_from: As in the constructor; a value head in the folder has precedence.
            trainable_layers: As in the constructor.
            gradient_checkpointing: As in the constructor.
            compile: As in the constructor.
            device: "cpu", "cuda", ...

        Raises:
            UnknownNameError: if the name leads nowhere.
            ModelError: if the folder holds no causal language model.
        """
        model, earlier_adapter = adapter_folders.load_merged(name)
        model.to(device)
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
            critic_from=critic_from,
            trainable_layers=trainable_layers,
            gradient_checkpointing=gradient_checkpointing,
            compile=compile,
        )
        policy.source, policy.earlier_adapter = str(name), earlier_adapter
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
        allowed: Tensor | None = None,
    ) -> Acted:
        """Choose the next token of each row, with one cached forward pass.

        Args:
            input_ids: int64 [B, P + T], an observation.
            attention_mask: [B, P + T].
            state: Of the call before; None reads the whole observation.
            fresh: bool [B], rows whose episode has just begun.
            generator: Where chance comes from.
            deterministic: Take the likeliest token.
            allowed: bool [B, V], the tokens to choose among; None allows all.
        """
        decoder = CachedDecoder(self.model, vocab_size=self.vocab_size, bfloat16=self.use_bfloat16)
        logits, state = decoder.next_token(input_ids, attention_mask, state, fresh)
        tokens, logprobs = choose_tokens(
            logits,
            temperature=self.temperature,
            generator=generator,
            deterministic=deterministic,
            allowed=allowed,
        )
        return Acted(tokens, logprobs, state)

    def evaluate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        start: int,
        *,
        with_values: bool = True,
        with_entropy: bool = True,
        allowed: Tensor | None = None,
    ) -> Evaluation:
        """Return log-probabilities, entropy and values of completions, teacher-forced.

        Consecutive rows with the same prompt are computed with the prompt shared, where
        that saves work (`textenvs.teacher_forcing`); logits are made for the completions alone, a
        few tokens at a time.

        Args:
            input_ids: int64 [B, P + T], prompt left-padded, completion from `start` on.
            attention_mask: [B, P + T].
            start: P, the column of the first completion token.
            with_values: Whether the critic is asked; values are 0 otherwise.
            with_entropy: Whether the entropy keeps its gradient; it is computed either way.
            allowed: uint8 [B, T, ceil(V / 8)], the tokens that could be chosen, as
                np.packbits writes them; the others have probability 0. None allows all.

        Raises:
            ConfigError: if a row has no prompt token.
        """
        packing = pack(
            input_ids,
            attention_mask,
            start,
            hidden_size=self.value_head.in_features,
            shareable=longest_shareable(self.model),
        )
        bits = None if allowed is None else allowed[packing.episodes, packing.steps]
        steps = input_ids.shape[1] - start
        with autocast(self.use_bfloat16, input_ids.device):
            logprobs, entropy, hidden = score_completions(
                self.model,
                self.logit_head,
                packing,
                vocab_size=self.vocab_size,
                temperature=self.temperature,
                bits=bits,
                with_entropy=with_entropy,
                forward=self._forwards[0],
            )
            if with_values and self.critic_trunk is not None:
                output = forward_trunk(self.critic_trunk, self._forwards[1], packing)
                hidden = output.last_hidden_state.flatten(0, 1)
        values = torch.zeros(len(input_ids), steps + 1, device=input_ids.device)
        if with_values:
            states = hidden[torch.cat([packing.reads, packing.ends])].float()
            values = packing.per_state(self.value_head(states)[:, 0], steps + 1)
        return Evaluation(
            packing.per_token(logprobs, steps), packing.per_token(entropy, steps), values
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
        otherwise a frozen copy, which shares with the policy the memory of the layers that
        `trainable_layers` leaves as they are.
        """
        if self.lora is not None:
            return CausalLMReference(
                self.model,
                temperature=self.temperature,
                bfloat16=self.use_bfloat16,
                frozen=self.without_adapters,
            )
        frozen = frozen_copy(self.model)
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

    def save_pretrained(
        self, folder: str | Path, adapter: adapter_folders.Adapter = "merge"
    ) -> Path:
        """Write a Hugging Face folder, and the critic beside it.

        Args:
            folder: Where.
            adapter: "merge" writes a plain model, which `AutoModelForCausalLM` loads; "keep"
                the adapters alone, for peft, with the name of their base.

        Raises:
            ConfigError: if there are no adapters to keep, their base has no name, or the
                folder holds the other kind.
            UnknownNameError: if it is neither of the two.
        """
        folder = Path(folder)
        adapter_folders.check_writable(folder, adapter, has_adapters=self.lora is not None)
        folder.mkdir(parents=True, exist_ok=True)
        if adapter == "keep":
            adapter_folders.save_adapter(folder, self.model, self.source, self.earlier_adapter)
        else:
            self.merged_model().save_pretrained(folder)
        if self.tokenizer is not None:
            save_tokenizer(self.tokenizer, folder)
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
        tensors = trunk_only(tensors, base_model(self.model).base_model_prefix)
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


def _forward_of(trunk: nn.Module, compile: bool | str) -> Any:
    """Return what is called to run a trunk over packed episodes, of any number and length."""
    if not compile:
        return trunk
    backend = "inductor" if compile is True else compile
    return torch.compile(trunk.forward, dynamic=True, backend=backend)
