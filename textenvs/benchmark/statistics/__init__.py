"""Statistics of seeds x prompts: pure functions of arrays, with a seed for every resampling."""
