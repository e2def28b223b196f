"""What a causal language model says of finished completions, in one pass over many.

The policy learns from it and the reference is asked by it: prompts shared by several
completions are computed once (`packing`), logits are made for completion tokens alone and
a few at a time (`token_logprobs`), in batches of a bounded number of tokens
(`micro_batches`).
"""
