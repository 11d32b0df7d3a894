"""Floor 1: networks that predict the tokens behind the masks."""
