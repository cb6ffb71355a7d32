"""What an author writes, checked when it is defined.

In reading order: `types`, `ddl`, `schema`, `migrations`, `row`, `extension`, `context`, `action`,
`undo`, `local`, `definition`.
"""
