"""The blobstorage and its backups: paths, manifests; pool, directories, archives; the target of a restore."""
