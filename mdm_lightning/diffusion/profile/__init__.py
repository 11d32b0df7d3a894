"""The loss profile: what few steps cost, and the schedules that are best by it."""
