"""The algorithm, pure: no SQL, no clock, no randomness, no I/O.

In reading order: `canonical`, `ids`, `clock`, `records`, `patches`, `fold`,
`correction`, `plan`, `messages`.
"""
