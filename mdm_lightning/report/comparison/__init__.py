"""Models beside each other: likelihood on the same sequences, settings, curves of training, speed."""
