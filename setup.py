"""Packages as pyproject.toml cannot list them: those that are found, and the configuration beside them."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["mdm_lightning*"]), "mdm_lightning.conf"])
