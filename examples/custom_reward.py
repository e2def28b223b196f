"""A reward of one's own: 5 lines to write, 1 to audit, 1 to train with."""

import sys

import gymnasium as gym

import agents
from textenvs.audit import audit
from textenvs.rewards import reward

ID, TASK = "textenvs/ContextSelect-v0", {"n_items": 8, "max_prompt_tokens": 208}
tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000


@reward(bounds=(0, 1))
def right_titles(prompt, completion):
    """Pay the share of lines that are right, and of right titles that are said."""
    right, said = prompt.reference.splitlines(), completion.splitlines()
    return len({*right} & {*said}) / max(len(right), len(said), 1)


report = audit(ID, reward=right_titles, n_prompts=16, **TASK)
print(f"sound: {report.ok}", *report.failures, sep="\n")

policy = agents.CausalLMPolicy.from_pretrained("tiny-lm")
agent = agents.PPO(policy, gym.make_vec(ID, num_envs=32, reward=right_titles, **TASK), seed=0)
agent.learn(tokens, callback=lambda metrics: print(f"reward {metrics['score']:.3f}"))
