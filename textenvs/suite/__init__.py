"""One module per family of registered environments."""
