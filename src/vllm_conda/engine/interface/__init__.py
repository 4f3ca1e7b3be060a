"""What a release of the engine asks of the kernels, read from its sources, and how it differs.

``sources`` opens a release; ``ops``, ``calls``, ``hooks`` and ``requirements`` read facts from it,
which ``facts`` puts together; ``table`` keeps them release by release; ``difference`` compares a
release with the table; ``advice`` says what a difference asks for.
"""
