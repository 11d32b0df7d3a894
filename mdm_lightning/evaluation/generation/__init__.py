"""What is measured of generated sequences."""
