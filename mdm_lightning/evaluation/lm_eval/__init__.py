"""lm-eval's benchmarks, answered by a masked diffusion model."""
