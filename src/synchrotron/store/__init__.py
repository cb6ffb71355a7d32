"""One local database, through apsw. Synchronous; the caller owns the transaction.

In reading order: `database`, `statements`, `guard`, `capture`, `local`, `rows`, `log`,
`state`, `store`.
"""
