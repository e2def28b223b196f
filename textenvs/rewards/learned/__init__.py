"""Rewards that a neural network gives: classifiers, embeddings, judges."""
