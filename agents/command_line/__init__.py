"""What the command `textenvs` does, a module for each group of commands."""
