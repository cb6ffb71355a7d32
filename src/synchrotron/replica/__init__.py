"""A copy of the data: run, undo, replay, reconcile, snapshots, outcomes.

In reading order: `outcomes`, `events`, `live`, `reversing`, `runner`, `revision`, `floors`,
`exchange`, `engine`, `transport`, `syncing`, `replica`.
"""
