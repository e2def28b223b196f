"""The language-model head of a model, apart from its trunk.

Most models end in one linear layer. Some then scale the logits (Cohere, Granite,
Falcon-H1) or cap them (Gemma). The settings say by how much but not always whether to
multiply or to divide, so the model itself is asked: its own forward pass is given
hidden states to finish, and the rule that explains its answer is taken. A model that no
rule explains keeps its own forward pass, at the price of holding all the logits.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from textenvs.teacher_forcing.token_logprobs import LogitRule
from textenvs.teacher_forcing.trunk import base_model, trunk_of

PROBE_SIZES = (1.0, 30.0)
"""Sizes of the hidden states a model is asked about: a cap shows on large logits only."""


@dataclass(frozen=True)
class LogitHead:
    """A linear layer and what is done to its output.

    Attributes:
        linear: The layer; its weight may be tied to the embeddings.
        rule: What follows, at a temperature of 1.
    """

    linear: nn.Linear
    rule: LogitRule

    @property
    def is_plain(self) -> bool:
        """Whether nothing is hooked to the layer that reads or changes what it gives."""
        return not (self.linear._forward_hooks or self.linear._forward_pre_hooks)

    def at(self, temperature: float) -> LogitRule:
        """Return the rule with the logits divided by a temperature."""
        return replace(self.rule, temperature=temperature)


@torch.no_grad()
def find_logit_head(model: Any) -> LogitHead | None:
    """Return the head of a causal language model, or None if it is no head we know.

    Args:
        model: A Hugging Face causal language model, or a peft model of one.
    """
    linear = model.get_output_embeddings()
    if type(linear) is not nn.Linear:  # an adapted or quantised layer computes otherwise
        return None
    asked = [_asked(model, linear, size) for size in PROBE_SIZES]
    rules = _candidate_rules(model.config.get_text_config(decoder=True))
    errors = {rule: max(_error(rule, raw, final) for raw, final in asked) for rule in rules}
    rule = min(errors, key=lambda rule: errors[rule])
    tolerance = 1e-4 if linear.weight.dtype == torch.float32 else 2e-2
    return LogitHead(linear, rule) if errors[rule] <= tolerance else None


def _candidate_rules(config: Any) -> list[LogitRule]:
    known = config.to_dict()
    scales = [1.0]
    for name in ("logit_scale", "logits_scaling", "lm_head_multiplier"):
        if known.get(name):
            scales += [float(known[name]), 1.0 / float(known[name])]
    cap = known.get("final_logit_softcapping")
    caps = [None, float(cap)] if cap else [None]
    return [LogitRule(scale=scale, cap=cap) for cap in caps for scale in scales]


def _asked(model: Any, linear: nn.Linear, size: float) -> tuple[Tensor, Tensor]:
    """Return the linear layer's output and the model's logits for the same hidden states."""
    base, trunk = base_model(model), trunk_of(model)
    weight = linear.weight
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 2, linear.in_features, generator=generator) * size
    states = states.to(weight.device, weight.dtype)

    def replaced(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        output["last_hidden_state"] = states
        return output

    handle = trunk.register_forward_hook(replaced)
    try:
        ids = torch.zeros(1, 2, dtype=torch.long, device=weight.device)
        final = base(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    return linear(states).float(), final.float()


def _error(rule: LogitRule, raw: Tensor, final: Tensor) -> float:
    """Return how far the rule is off, as a share of the largest logit."""
    expected = raw * rule.scale
    if rule.cap is not None:
        expected = rule.cap * (expected / rule.cap).tanh()
    return float((expected - final).abs().max() / final.abs().max().clamp_min(1e-12))
