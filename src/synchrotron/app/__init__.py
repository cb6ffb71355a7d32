"""What an author writes, checked when it is defined.

In reading order: `types`, `ddl`, `schema`, `row`, `extension`, `context`, `action`, `undo`,
`local`, `definition`.
"""
