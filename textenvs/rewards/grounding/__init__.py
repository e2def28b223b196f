"""Answering only from the context: lists, passages, free text."""
