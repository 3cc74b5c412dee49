"""zodbvault: backs up and restores a ZODB FileStorage with its blobstorage.

Nothing is imported here, so that a script pays only for what it uses.
"""
