"""Reward designs x agents x seeds: training runs, statistics, verdicts and a report."""
