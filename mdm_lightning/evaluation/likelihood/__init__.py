"""What is measured of given sequences: likelihood, loss profile, and the advice read from it."""
