"""The page of a channel: which node type gets which build, commands, checksums, what changed."""
