"""Floor 2: generating text by unmasking, along any mask schedule, in any step budget."""
