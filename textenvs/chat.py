"""Chat templates: conversations rendered as the tokenizer's model was trained to read them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from textenvs.errors import TokenizerError
from textenvs.prompts import GeneratedPrompts, PromptSource, TokenTable, probe_lengths
from textenvs.tokenization import TextTokenizer
from textenvs.types import Prompt


class ChatPrompts(PromptSource):
    """The prompts of another source, rendered with a tokenizer's chat template."""

    def __init__(self, source: PromptSource, tokenizer: TextTokenizer, *, wrap: bool) -> None:
        """Keep the source.

        Args:
            source: Prompts, with messages or without.
            tokenizer: Brings the template.
            wrap: Make a prompt without messages the single message of a user.

        Raises:
            TokenizerError: if the tokenizer has no chat template.
        """
        self.source, self.wrap = source, wrap
        self._render = renderer(tokenizer)

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        """Return one prompt, its text rendered."""
        prompt = self.source[index]
        messages = prompt.messages
        if messages is None:
            if not self.wrap:
                return prompt
            messages = ({"role": "user", "content": prompt.text},)
        return dataclasses.replace(prompt, text=self._render(messages), messages=messages)

    def index_of(self, prompt_id: str) -> int:
        """Return where the prompt with this id stands."""
        return self.source.index_of(prompt_id)

    def check_lengths(self, tokenizer: TextTokenizer, limit: int) -> TokenTable | None:
        """Refuse a prompt that does not fit; of prompts made by index, look at the first."""
        if isinstance(self.source, GeneratedPrompts):
            probe_lengths(self, tokenizer, limit)
            return None
        return super().check_lengths(tokenizer, limit)

    def encode(self, tokenizer: TextTokenizer, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the ids the policy reads of some of these prompts."""
        return [encode_prompt(tokenizer, prompt) for prompt in prompts]


def encode_prompt(tokenizer: TextTokenizer, prompt: Prompt) -> list[int]:
    """Return the ids of a prompt; a template has put the special tokens into its text."""
    if prompt.messages is not None:
        return tokenizer.encode_completion(prompt.text)
    return tokenizer.encode(prompt.text)


def with_chat(source: PromptSource, tokenizer: TextTokenizer, *, wrap: bool) -> PromptSource:
    """Return a source whose conversations are rendered; the same one where there is none.

    Args:
        source: Of one kind throughout: the first prompt tells whether it holds conversations.
        tokenizer: Brings the template.
        wrap: Make a prompt without messages the single message of a user.
    """
    if isinstance(source, ChatPrompts):
        source = source.source
    if not wrap and source[0].messages is None:
        return source
    return ChatPrompts(source, tokenizer, wrap=wrap)


def renderer(tokenizer: TextTokenizer) -> Callable[[Sequence[Mapping[str, str]]], str]:
    """Return a function from messages to the text the model reads before it answers.

    The template runs in jinja2's sandbox: it comes with a model, and is not trusted.

    Raises:
        TokenizerError: if the tokenizer has no chat template.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise TokenizerError(
            f"the tokenizer {tokenizer.name!r} has no chat template, so conversations cannot be "
            "rendered; use the tokenizer of a chat model, put a chat_template.jinja beside its "
            "tokenizer.json, or give prompts as text"
        )
    if isinstance(template, Mapping):  # several by name
        template = template.get("default") or next(iter(template.values()))
    compiled = _compiled(template)
    special = _special_tokens(tokenizer)

    def render(messages: Sequence[Mapping[str, str]]) -> str:
        from jinja2.exceptions import TemplateError

        try:
            return compiled.render(messages=messages, add_generation_prompt=True, **special)
        except TemplateError as error:
            roles = [message["role"] for message in messages]
            raise TokenizerError(
                f"the chat template of {tokenizer.name!r} refuses a conversation with the roles "
                f"{roles}: {error}"
            ) from error

    return render


@lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    # The settings every published template is written for.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise TokenizerError(f"the chat template cannot be read: {error}") from error


def _special_tokens(tokenizer: TextTokenizer) -> dict[str, str]:
    """Return the texts of the special tokens a template may write."""
    tokens = getattr(tokenizer, "special_tokens", {})
    return {name: tokens.get(name, "") for name in ("bos_token", "eos_token", "pad_token")}
