"""One run of an action in other places: a copy, another process, what others see.

In reading order: `copies`, `other_process`, `views`.
"""
