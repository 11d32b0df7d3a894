"""What is measured of given sequences: likelihood and loss profile."""
