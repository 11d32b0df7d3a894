"""Published models: the formats that others' weights come in, read and written."""
