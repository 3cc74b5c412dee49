"""For `develop = .` in a buildout; the metadata stand in pyproject.toml."""

from setuptools import setup

setup()
