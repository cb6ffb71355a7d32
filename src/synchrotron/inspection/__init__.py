"""Looking into a replica's file from outside, without the application's code.

In reading order: `file`, `status`, `health`, `history`, `doctor`.
"""
