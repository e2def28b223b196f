"""How a critic learns beside a policy: at a rate of its own, and with a start before it."""

from typing import Any

from agents.policy import CausalLMPolicy


def actor_critic_groups(
    policy: CausalLMPolicy, critic_learning_rate: float | None
) -> list[dict[str, Any]]:
    """Return the weights of a policy and its critic, in an optimiser's groups.

    Args:
        policy: The actor and the critic.
        critic_learning_rate: Of the value head and, where it has its own, the critic's
            trunk; None takes that of the optimiser.
    """
    every = policy.trainable_parameters()
    if critic_learning_rate is None:
        return [{"params": every}]
    critic = policy.trainable_parameters(critic_only=True)
    known = {id(p) for p in critic}
    actor = [p for p in every if id(p) not in known]
    return [{"params": actor}, {"params": critic, "lr": critic_learning_rate}]


def drop_actor_gradients(policy: CausalLMPolicy) -> None:
    """Leave gradients to the critic alone; a trunk that it shares belongs to the actor."""
    critic = {id(p) for p in policy.trainable_parameters(critic_only=True)}
    for parameter in policy.trainable_parameters():
        if id(parameter) not in critic:
            parameter.grad = None
