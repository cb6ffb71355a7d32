"""One local database, through apsw. Synchronous; the caller owns the transaction.

In reading order: `closing`, `encryption`, `database`, `guard`, `footprint`, `statements`,
`functions`, `capture`, `local`, `rows`, `effects`, `log`, `state`, `turn`, `store`.
"""
