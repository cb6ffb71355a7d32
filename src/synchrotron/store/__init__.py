"""One local database, through apsw. Synchronous; the caller owns the transaction.

In reading order: `database`, `statements`, `guard`, `capture`, `rows`, `local`, `log`,
`state`, `store`.
"""
