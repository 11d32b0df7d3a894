"""Many schedules and step budgets against each other."""
