"""Measurements side by side with collective.recipe.backup: `make bench`. Not installed, and no part of the tests."""
