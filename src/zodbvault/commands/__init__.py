"""What somebody can do with backups: decided here, and put in order; the packages below do it.

The story of each use is in the file of its name: backup.py, restore.py, verify.py, list.py. Its chapters are called
after it (restore_data.py, verify_chain.py), but for those of a backup that only one with changes needs (attempt.py,
completion.py). What several uses share stands beside them: which backup a date means (choosing.py, blob_choices.py),
what there is in a repository (survey.py), its folders and locks (places.py).
"""
