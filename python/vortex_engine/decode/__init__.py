"""Generation: sampling, the token loop, and `load`, which puts a packed model together."""
