"""What a model that scores reads: prompt and answer in a template, made harmless first."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from textenvs.errors import ConfigError, ModelError
from textenvs.rewards.learned.batches import encodable
from textenvs.types import Prompt

CHAT = "chat"
PLAIN_TEMPLATE = "{prompt}{completion}"


def check_template(template: str | None) -> None:
    """Refuse a template that leaves the answer out.

    Args:
        template: As asked for: None, `CHAT`, or a text with the field {completion}.

    Raises:
        ConfigError: if it is a text without that field.
    """
    if template not in (None, CHAT) and "{completion}" not in str(template):
        raise ConfigError(
            f"template must hold the field {{completion}}, or be {CHAT!r}, got {template!r}"
        )


def template_for(tokenizer: Any, template: str | None, path: str) -> str:
    """Return the template that a model's texts are written in.

    Args:
        tokenizer: Of transformers.
        template: As asked for; None is `CHAT` where the tokenizer has a chat template, else
            `PLAIN_TEMPLATE`.
        path: Of the model, for the error.

    Raises:
        ModelError: if `CHAT` is asked for and there is no chat template.
    """
    has_chat = bool(tokenizer.chat_template)
    if template is None:
        return CHAT if has_chat else PLAIN_TEMPLATE
    if template == CHAT and not has_chat:
        raise ModelError(
            f"the tokenizer of {path!r} has no chat template; give template= with the "
            "fields {prompt} and {completion}"
        )
    return template


def judged_text(tokenizer: Any, template: str, prompt: Prompt, completion: str, path: str) -> str:
    """Return what a reward model reads of a prompt with its answer, in scoring and in training.

    Args:
        tokenizer: Of transformers.
        template: `CHAT`, or a text with the fields {prompt} and {completion}.
        prompt: What was asked.
        completion: The answer; special tokens that it spells out are broken up.
        path: Of the model, for the error.
    """
    answer = defused(completion, special_tokens(tokenizer))
    if template == CHAT:
        return rendered(tokenizer, conversation(prompt, answer), path)
    return filled(template, {"prompt": encodable(prompt.text), "completion": answer})


def filled(template: str, fields: Mapping[str, str]) -> str:
    """Return a template with its `{fields}` replaced, in one pass.

    Braces in a value stay what they are, and so do braces in the template that are no field.

    Args:
        template: A text.
        fields: Values by name.
    """
    pattern = "|".join(re.escape(f"{{{name}}}") for name in fields)
    return re.sub(pattern, lambda match: fields[match[0][1:-1]], template)


def defused(text: str, special_tokens: Iterable[str]) -> str:
    """Return an answer whose special tokens are plain text to a tokenizer, surrogates gone.

    An answer that spells out `<|im_end|>` would otherwise close its own turn of the
    conversation and go on as somebody else.

    Args:
        text: Written by the policy: not to be trusted.
        special_tokens: Texts the tokenizer reads as one token wherever they stand.
    """
    text = encodable(text)
    tokens = sorted((t for t in special_tokens if len(t) > 1), key=len, reverse=True)
    if not tokens:
        return text
    pattern = "|".join(map(re.escape, tokens))
    # A space behind the first character breaks it; what it said can still be read.
    return re.sub(pattern, lambda match: f"{match[0][0]} {match[0][1:]}", text)


def special_tokens(tokenizer: Any) -> list[str]:
    """Return the texts a transformers tokenizer reads as one special token."""
    return [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]


def quoted(text: str) -> str:
    """Return a text with every line behind "> ": nothing in it can end the quotation."""
    return "\n".join(f"> {line}" for line in text.splitlines() or [""])


def conversation(prompt: Prompt, answer: str) -> list[dict[str, str]]:
    """Return the messages of a prompt, of one user where it has none, and then the answer."""
    asked = prompt.messages or ({"role": "user", "content": prompt.text},)
    messages = [*asked, {"role": "assistant", "content": answer}]
    return [{key: encodable(value) for key, value in message.items()} for message in messages]


def rendered(
    tokenizer: Any, messages: list[dict[str, str]], path: str, *, to_be_answered: bool = False
) -> str:
    """Return a conversation in the chat template of a transformers tokenizer.

    The template comes with the model; transformers renders it in jinja2's sandbox.

    Args:
        tokenizer: Has a chat template.
        messages: Of the conversation.
        path: Of the model, for the error.
        to_be_answered: Whether the model's own turn begins at the end.

    Raises:
        ModelError: if the template refuses the conversation.
    """
    from jinja2.exceptions import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=to_be_answered
            )
        )
    except TemplateError as error:
        roles = [message["role"] for message in messages]
        raise ModelError(
            f"the chat template of {path!r} refuses a conversation with the roles {roles}: {error}"
        ) from error
