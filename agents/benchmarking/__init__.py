"""One cell of a benchmark: a reward design trained by an agent, judged along the way."""
