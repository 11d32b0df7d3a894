"""The families of published models. A module in this folder that defines a ``Family`` adds it; its sizes are a file in
``conf/model``."""
