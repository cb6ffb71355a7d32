"""One run of an action in other places: on a copy, in another process, on what others see.

In reading order: `copies`, `other_process`, `views`.
"""
