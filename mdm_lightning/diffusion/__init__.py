"""Floor 0: the mathematics of masked diffusion. Imports torch and scipy, nothing of this package but errors."""
