"""The version: the one place where it stands (packaging and records read it)."""

VERSION = "1.0.0.dev0"
