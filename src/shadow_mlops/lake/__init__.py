"""The archive: what the log said, as Parquet behind a manifest, joined with what really happened."""
