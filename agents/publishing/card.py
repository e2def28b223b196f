"""The model card: what a folder holds, how it was made, what it scored."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import tomli_w

from agents.evaluation import Interval
from agents.runs import package_versions, plain
from textenvs.errors import ConfigError
from textenvs.models import SMOLLM2, SMOLLM2_HUB

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

# Values go through `tojson`: a JSON string is a YAML string.
_TEMPLATE = """\
---
library_name: {{ library }}
pipeline_tag: {{ pipeline }}
{% if hub_base %}
base_model: {{ hub_base | tojson }}
{% endif %}
tags:
{% for tag in tags %}
- {{ tag | tojson }}
{% endfor %}
---

# {{ title }}

Made by the stage `{{ card.stage }}` of textenvs, from {{ base }}.

## Data

{{ data }}

## How it was made
{% if card.command %}

{{ command }}
{% endif %}

{{ settings }}

## What it scored
{% if rows %}

| metric | value | 95% interval |
|---|---|---|
{% for name, value, interval in rows %}
| {{ name }} | {{ value }} | {{ interval }} |
{% endfor %}
{% else %}

Not evaluated.
{% endif %}
{% if notes %}

## Notes

{% for note in notes %}
- {{ note }}
{% endfor %}
{% endif %}

## How to load it

{{ loading }}

## Versions

{% for name, version in versions %}
- {{ name }} {{ version }}
{% endfor %}
"""

_LOADING = {
    "causal-lm": """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)

# To go on training, with the value head where there is one:
from agents import CausalLMPolicy

policy = CausalLMPolicy.from_pretrained(FOLDER)""",
    "reward-model": """\
from textenvs.rewards import RewardModel

reward = RewardModel(FOLDER)""",
}
_PIPELINES = {"causal-lm": "text-generation", "reward-model": "text-classification"}


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What the card of a model says.

    Attributes:
        stage: "pretrain", "sft", "rm", "dpo", "ppo", ...
        base_model: The name of the model it began as, as it was given; "" from scratch.
        data: The training data, in a sentence.
        command: The command line that makes it again; "" if there is none.
        settings: All settings, as `agents.runs.plain` returns them.
        metrics: Name -> value, with its 95% interval where it has one.
        notes: What a user should know, one sentence each.
    """

    stage: str
    base_model: str
    data: str
    command: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, Interval | float]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a stage without a name."""
        if not self.stage.strip():
            raise ConfigError("a model card needs the name of its stage, e.g. 'sft'")

    def render(self, kind: str = "causal-lm", *, adapter: bool = False) -> str:
        """Return the card as Markdown with YAML front matter.

        The same card gives the same text, but for the versions of the installed packages. No
        license is claimed: it depends on the base model and the data.

        Args:
            kind: "causal-lm" or "reward-model".
            adapter: Whether the folder holds adapters for peft rather than a whole model.
        """
        environment = jinja2.Environment(
            trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
        )
        return environment.from_string(_TEMPLATE).render(
            card=self,
            library="peft" if adapter else "transformers",
            pipeline=_PIPELINES.get(kind, "text-generation"),
            hub_base=hub_name(self.base_model),
            tags=["textenvs", "reinforcement-learning-from-human-feedback", self.stage],
            title=f"A {_text(kind)} made by {_text(self.stage)}",
            base=_code(self.base_model) if self.base_model else "random weights",
            data=_text(self.data),
            command=_block(self.command, "bash"),
            settings=_block(tomli_w.dumps(plain(self.settings)).rstrip(), "toml"),
            rows=[_row(name, value) for name, value in self.metrics.items()],
            notes=[_text(note) for note in self.notes],
            loading=_block(_LOADING.get(kind, _LOADING["causal-lm"]), "python"),
            versions=[(n, v) for n, v in package_versions().items() if v is not None],
        )


def hub_name(model: str) -> str | None:
    """Return the hub's name of a model, None if it is a folder or shipped with textenvs.

    A hub refuses a card whose `base_model` is none of its names.
    """
    if model.casefold() == SMOLLM2:
        return SMOLLM2_HUB
    return model if HUB_NAME.fullmatch(model) and not Path(model).exists() else None


def _row(name: str, value: Interval | float) -> tuple[str, str, str]:
    if isinstance(value, Interval):
        return _cell(name), f"{value.mean:.4g}", f"{value.low:.4g} to {value.high:.4g}"
    return _cell(name), f"{value:.4g}", ""


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    """Return a text as one line of Markdown that can hold no HTML."""
    line = " ".join(text.split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str) -> str:
    return f"`{' '.join(text.replace('`', ' ').split())}`"


def _block(text: str, language: str) -> str:
    """Return a fenced block; the fence is longer than any that the text holds."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
