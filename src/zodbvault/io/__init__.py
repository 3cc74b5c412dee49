"""Durable writes, locks, gzip members, hashes, free space, the clock. Knows no ZODB."""
