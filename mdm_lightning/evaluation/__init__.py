"""Floor 3: what is measured of a denoiser and of the text it generates."""
