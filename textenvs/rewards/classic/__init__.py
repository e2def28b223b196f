"""Rewards by rule and by well-kept libraries: length, form, overlap with a reference."""
