"""A copy of the data: run, undo, replay, reconcile, snapshots, outcomes.

In reading order: `outcomes`, `events`, `runner`, `revision`, `floors`, `exchange`,
`engine`, `transport`, `syncing`, `backoff`, `background`, `replica`.
"""
