"""Durable writes, locks, gzip members, hashes, free space, the page cache, progress, the clock. Knows no ZODB."""
