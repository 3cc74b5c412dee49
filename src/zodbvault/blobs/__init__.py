"""The blobstorage and its backups: paths, manifests, the pool, the target of a restore."""
