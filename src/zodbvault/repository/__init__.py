"""repozo's files: names, .dat, records, chains, sweep, prune."""
