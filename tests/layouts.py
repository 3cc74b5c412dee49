"""The layouts of blobs: options as they stand in a buildout, the same for this recipe and for the old one."""

from __future__ import annotations

LAYOUTS: dict[str, dict[str, str]] = {
    "pool": {},
    "directories": {"blob_layout": "directories"},
    "first copy linked": {"rsync_hard_links_on_first_copy": "true"},
    "numbered directories": {"blob_timestamps": "false"},
    "copies": {"use_rsync": "false"},
    "numbered copies": {"use_rsync": "false", "blob_timestamps": "false"},
    "archives": {"archive_blob": "true"},
    "compressed archives": {"archive_blob": "true", "compress_blob": "true"},
    "numbered archives": {"archive_blob": "true", "blob_timestamps": "false"},
    "numbered compressed archives": {"archive_blob": "true", "compress_blob": "true", "blob_timestamps": "false"},
    "incremental archives": {"archive_blob": "true", "incremental_blobs": "true"},
    "compressed incremental archives": {"archive_blob": "true", "incremental_blobs": "true", "compress_blob": "true"},
}

IS_NUMBERED = {name for name, options in LAYOUTS.items() if options.get("blob_timestamps") == "false"}
IS_INCREMENTAL = {name for name, options in LAYOUTS.items() if "incremental_blobs" in options}
HAS_LATEST = LAYOUTS.keys() - IS_NUMBERED - IS_INCREMENTAL - {"pool"}
