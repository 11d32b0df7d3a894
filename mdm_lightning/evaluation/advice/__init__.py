"""Which sampler, order and schedule to use: proposals from profiles, and their check on other instances."""
