"""One episode of `textenvs/ContextSelect-v0`, token by token. Needs neither torch nor a network."""

import gymnasium as gym

import textenvs  # noqa: F401  # registers the environments

env = gym.make("textenvs/ContextSelect-v0", n_items=6)
observation, info = env.reset(seed=0)
print(info["prompt"])

# The oracle's answer stands in for a policy: any agent that picks tokens will do.
task = env.unwrapped
prompt = task.prompts[task.prompts.index_of(info["prompt_id"])]
answer = [*task.tokenizer.encode_completion(task.oracle(prompt)), task.tokenizer.eos_id]

for token in answer:
    observation, reward, terminated, truncated, info = env.step(token)
    if terminated or truncated:
        break

print(info["completion"])
print(f"ended by {info['finish_reason']} after {len(info['completion_ids'])} tokens")
print(f"reward {reward}, terms {info['reward_terms']}, metrics {info['metrics']}")
