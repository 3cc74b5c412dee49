"""Tests of what the measurements stand on. Nothing here measures time."""
