"""`textenvs/RandomWalks-v0`: a shortest path through a graph that has to be learned.

The toy task of the Decision Transformer (Chen et al., arXiv:2106.01345, section 3) in the
form that trlx gave it: nodes are letters, an answer is a walk, the score its optimality.
There the goal is one node; here the prompt names it, so that pairs can be held out.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

import numpy as np

from textenvs.errors import ConfigError
from textenvs.options import checked_integer
from textenvs.prompts import PromptList, checked_split, split_of
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.suite.options import first_prompts
from textenvs.symbols import SymbolTokenizer
from textenvs.task_env import TaskEnv
from textenvs.types import Episode, Prompt, Split

TO, ASK, COMMA, END_OF_EDGES = ">", ":", ",", ";"


@dataclass(frozen=True)
class Graph:
    """A directed graph whose nodes are letters.

    Attributes:
        successors: Node -> the nodes an edge leads to, in order.
    """

    successors: Mapping[str, str]

    @property
    def edges(self) -> list[str]:
        """Every edge as two letters, in order."""
        return [node + other for node, others in self.successors.items() for other in others]

    def is_walk(self, text: str) -> bool:
        """Return whether every pair of neighbours in a text is an edge."""
        return bool(text) and self.legal_steps(text) == len(text) - 1

    def legal_steps(self, text: str) -> int:
        """Return how many pairs of neighbours in a text are edges."""
        pairs = zip(text, text[1:], strict=False)
        return sum(other in self.successors.get(node, "") for node, other in pairs)

    def shortest_paths(self, start: str) -> dict[str, str]:
        """Return, for each node that can be reached, a shortest path to it, both ends included."""
        paths = {start: start}
        queue = deque([start])
        while queue:
            node = queue.popleft()
            for other in self.successors[node]:
                if other not in paths:
                    paths[other] = paths[node] + other
                    queue.append(other)
        return paths


def random_graph(n_nodes: int, p_edge: float, generator: np.random.Generator) -> Graph:
    """Return a graph with each edge at a probability; a node without any gets one edge."""
    nodes = ascii_uppercase[:n_nodes]
    edges = generator.random((n_nodes, n_nodes)) < p_edge
    np.fill_diagonal(edges, False)
    for i in np.flatnonzero(~edges.any(axis=1)):
        edges[i, (i + generator.integers(1, n_nodes)) % n_nodes] = True
    return Graph(
        {nodes[i]: "".join(nodes[j] for j in np.flatnonzero(edges[i])) for i in range(n_nodes)}
    )


class WalkOptimality(BaseReward):
    """How near a walk comes to the shortest path, as trlx measures it.

    The answer is all nodes of the walk, from the prompt's start to its goal, without a
    separator. With l nodes in it, s in a shortest path and a limit of L, the score is
    (L - l) / (L - s); it is 0 for l >= L, and for anything that is no walk along the edges
    from start to goal. Range [0, 1].
    """

    name = "optimality"

    def __init__(self, graph: Graph, max_length: int = 10) -> None:
        """Keep the graph and the limit, in nodes."""
        self.graph, self.max_length = graph, max_length

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        return RewardResult.from_scores(self.name, [self._score(e) for e in episodes])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return 0 and 1."""
        return (0.0, 1.0)

    def arrives(self, episode: Episode) -> bool:
        """Return whether an answer is a walk from the start to the goal."""
        walk, asked = episode.completion, episode.prompt.metadata
        ends = (walk[:1], walk[-1:]) == (asked["start"], asked["goal"])
        return ends and self.graph.is_walk(walk)

    def _score(self, episode: Episode) -> float:
        if not self.arrives(episode):
            return 0.0
        spare = self.max_length - len(episode.completion)
        return max(0, spare) / (self.max_length - episode.prompt.metadata["shortest"])

    def gold_metrics(self, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
        """Return what a policy is judged by, float64 [B] each.

        - `arrived`: 1 if the answer is a walk from the start to the goal.
        - `optimal`: 1 if it is a shortest one.
        - `legal_steps`: share of the answer's steps that are edges; 0 where there is none.
        - `length`: letters of the answer.
        """
        texts = [e.completion for e in episodes]
        arrived = np.array([self.arrives(e) for e in episodes], np.float64)
        lengths = np.array([len(text) for text in texts], np.float64)
        shortest = np.array([e.prompt.metadata["shortest"] for e in episodes], np.float64)
        legal = np.array([self.graph.legal_steps(text) for text in texts], np.float64)
        return {
            "arrived": arrived,
            "optimal": arrived * (lengths == shortest),
            "legal_steps": legal / np.maximum(lengths - 1, 1),
            "length": lengths,
        }

    def probes(self, prompt: Prompt) -> dict[str, str]:
        """Return answers that no edge allows."""
        start, goal = prompt.metadata["start"], prompt.metadata["goal"]
        return {
            "straight": start + goal,
            "backwards": self.answer(prompt)[::-1],
            "all_nodes": "".join(self.graph.successors),
            "without_start": self.answer(prompt)[1:],
        }

    def answer(self, prompt: Prompt) -> str:
        """Return a shortest path."""
        return self.graph.shortest_paths(prompt.metadata["start"])[prompt.metadata["goal"]]


def random_walks_task(
    *,
    n_nodes: int = 21,
    p_edge: float = 0.1,
    max_length: int = 10,
    show_edges: bool = False,
    task_seed: int = 0,
    split: Split = "train",
    n_prompts: int | None = None,
    prompt_seed: int = 0,
) -> dict[str, Any]:
    """Return the arguments of `TextEnv` for this task.

    Args:
        n_nodes: Nodes of the graph, 4 to 26: the letters A, B, ...
        p_edge: Probability of each edge, in (0, 1).
        max_length: The length of a walk, in nodes, that pays nothing, at least 4.
        show_edges: List the edges in the prompt; else they must be learned by trying.
        task_seed: Chooses the graph.
        split: "train", "validation" or "test", by the pair of start and goal.
        n_prompts: Prompts of the split; None means all of them.
        prompt_seed: Chooses their order.

    Raises:
        ConfigError: if an option is out of range, or no pair is left for the split.
        PromptError: if the split has fewer prompts.
        UnknownNameError: if there is no such split.
    """
    checked_split(split)
    checked_integer("n_nodes", n_nodes, 4, 21, 26)
    checked_integer("max_length", max_length, 4, 10)
    if isinstance(p_edge, bool) or not isinstance(p_edge, (int, float)) or not 0 < p_edge < 1:
        raise ConfigError(f"p_edge must be between 0 and 1, got {p_edge!r}; the default is 0.1")
    graph_seed = checked_integer("task_seed", task_seed, 0, 0)
    graph = random_graph(n_nodes, p_edge, np.random.default_rng(graph_seed))
    reward = WalkOptimality(graph, max_length)
    paths = walkable(graph, max_length, split)
    generator = np.random.default_rng(checked_integer("prompt_seed", prompt_seed, 0, 0))
    order = [paths[i] for i in generator.permutation(len(paths))]
    listed = COMMA.join(graph.edges) + END_OF_EDGES if show_edges else ""
    prompts = PromptList(
        Prompt(
            id=f"{path[0]}{TO}{path[-1]}",
            text=f"{listed}{path[0]}{TO}{path[-1]}{ASK}",
            context=tuple(graph.edges) if show_edges else None,
            group=f"{path[0]}{TO}{path[-1]}",
            metadata={"start": path[0], "goal": path[-1], "shortest": len(path)},
        )
        for path in first_prompts(order, n_prompts, split)
    )
    return {
        "prompts": prompts,
        "reward": reward,
        "tokenizer": SymbolTokenizer(
            "".join(graph.successors) + TO + ASK + (COMMA + END_OF_EDGES if show_edges else "")
        ),
        "max_prompt_tokens": len(prompts[0].text),
        "max_new_tokens": max_length + 1,
        "metrics": reward.gold_metrics,
        "oracle": reward.answer,
        "probes": reward.probes,
    }


def walkable(graph: Graph, max_length: int, split: Split) -> list[str]:
    """Return a shortest path for every pair of a split that is worth asking for.

    Neighbours are left out, since naming both nodes would do, and pairs whose shortest path
    has `max_length` nodes or more, since it would pay nothing.

    Raises:
        ConfigError: if none is left.
    """
    paths = [path for node in graph.successors for path in graph.shortest_paths(node).values()]
    kept = [
        path
        for path in paths
        if 2 < len(path) < max_length and split_of(f"{path[0]}{TO}{path[-1]}") == split
    ]
    if not kept:
        raise ConfigError(
            f"the graph has no pair of nodes at a distance for the {split} split; take more "
            "nodes, another p_edge or another task_seed"
        )
    return kept


class RandomWalksEnv(TaskEnv):
    """Find a shortest path through a random graph, nodes as letters.

    Observation: as in `TextEnv`; the prompt is start and goal, "B>K:", after the edges with
    `show_edges`. Action: as in `TextEnv`, a token a character. Reward: `WalkOptimality`, in
    [0, 1]. Ends at EOS or after `max_length` + 1 tokens, always `terminated`. Gold metrics:
    `arrived`, `optimal`, `legal_steps`, `length`. Options: see `random_walks_task`.

    Version history: v0, first version.
    """

    task = staticmethod(random_walks_task)


make_vec = RandomWalksEnv.make_vec
