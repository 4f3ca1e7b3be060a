"""Who made the packages and the index of a channel, and proof that both arrived whole and fresh.

Packages carry in-toto statements in Sigstore bundles (CEP 27, CEP 50), the channel as a whole The
Update Framework's metadata (TUF), which also notices an index that is older than one seen before.
"""
