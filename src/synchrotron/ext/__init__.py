"""What fits Synchrotron to other packages. Each is imported when it is first used.

In reading order: `sqlalchemy`.
"""
