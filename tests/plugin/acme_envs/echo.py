"""Say the word of the prompt: a family with options, and a task without a class."""

from textenvs.rewards import reward
from textenvs.task_env import TaskEnv

WORDS = ("salt", "tea", "bread", "rain")


@reward
def echoed(prompt, completion):
    return float(completion.strip() == prompt.reference)


def echo_task(*, repeat=1, split="train"):
    prompts = [
        {"id": f"{split}-{word}", "text": f"Say {word}:", "reference": " ".join([word] * repeat)}
        for word in WORDS
    ]
    return {"prompts": prompts, "reward": echoed, "max_new_tokens": 8, "max_prompt_tokens": 16}


class EchoEnv(TaskEnv):
    """Say the word of the prompt."""

    task = staticmethod(echo_task)


def shout_task(*, split="train"):
    """Say the word of the prompt in capitals."""
    prompts = [{"text": f"Shout {word}:", "reference": word.upper()} for word in WORDS]
    return {"prompts": prompts, "reward": echoed, "max_new_tokens": 8, "max_prompt_tokens": 16}
