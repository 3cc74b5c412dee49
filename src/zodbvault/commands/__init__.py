"""One file per use: backup, restore, verify, list. Decides; the packages below do."""
