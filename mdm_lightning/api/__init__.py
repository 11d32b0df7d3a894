"""The front door: what a notebook or a script uses. ``mdm_lightning/__init__.py`` lists what is public."""
