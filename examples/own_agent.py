"""An agent of one's own: REINFORCE (Williams, 1992) in plain torch, offline, in seconds."""

import gymnasium as gym
import numpy as np
import torch

import agents


class Reinforce:
    """A small network over the window. Also: textenvs train --agent own_agent:Reinforce."""

    def __init__(self, env, *, seed=0, learning_rate=3e-3):
        """Make the network and its optimiser."""
        self.env, self.generator = env, torch.Generator().manual_seed(seed)
        (window,), n = env.single_observation_space["input_ids"].shape, env.single_action_space.n
        layers = torch.nn.Embedding(n + 1, 64), torch.nn.Flatten(), torch.nn.Linear(window * 64, n)
        self.network = torch.nn.Sequential(*layers)  # token n stands for an empty place
        for weight in self.network.parameters():
            torch.nn.init.normal_(weight, std=0.1, generator=self.generator)
        self.optimizer = torch.optim.Adam(self.network.parameters(), learning_rate)

    def act(self, observation, deterministic=False):
        """Return actions and their log-probabilities."""
        ids, mask = (torch.as_tensor(observation[k]) for k in ("input_ids", "attention_mask"))
        logprobs = self.network(ids.where(mask > 0, self.env.single_action_space.n)).log_softmax(1)
        sampled = torch.multinomial(logprobs.detach().exp(), 1, generator=self.generator)
        actions = logprobs.argmax(1, keepdim=True) if deterministic else sampled
        return actions[:, 0].numpy(), logprobs.gather(1, actions)[:, 0]

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        """Choose actions."""
        return self.act(observation, deterministic)[0], state

    def learn(self, total_timesteps):
        """Play one episode in each row, learn from them, and repeat."""
        tokens = 0
        while tokens < total_timesteps:
            observation, _ = self.env.reset(seed=None if tokens else self.generator.initial_seed())
            alive, score, logprob = np.ones(self.env.num_envs, bool), 0.0, 0.0
            while alive.any():  # rows that ended begin another episode, which is not counted
                actions, chosen = self.act(observation)
                observation, reward, terminated, truncated, _ = self.env.step(actions)
                score, logprob = score + reward * alive, logprob + chosen * torch.tensor(alive)
                tokens, alive = tokens + alive.sum(), alive & ~(terminated | truncated)
            self.optimizer.zero_grad()
            (torch.tensor(score.mean() - score) * logprob).mean().backward()  # mean: the baseline
            self.optimizer.step()

    def save(self, path):
        """Write the weights."""
        np.savez(path, **{k: v.numpy() for k, v in self.network.state_dict().items()})


if __name__ == "__main__":
    agent = Reinforce(gym.make_vec("textenvs/Enumerable-v0", num_envs=64))
    print("before", agents.evaluate(agent, "textenvs/Enumerable-v0")["reward"])
    agent.learn(60_000)
    print("after ", agents.evaluate(agent, "textenvs/Enumerable-v0")["reward"])
