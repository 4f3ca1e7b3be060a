"""The toolkit's cache of downloads: files with recorded hashes, under one lock."""
