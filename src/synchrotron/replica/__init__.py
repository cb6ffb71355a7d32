"""A copy of the data: run, undo, replay, reconcile, snapshots, outcomes.

In reading order: `outcomes`, `events`, `live`, `reversing`, `runner`, `impurity`, `sources`,
`strict`, `revision`, `floors`, `exchange`, `engine`, `transport`, `syncing`, `backoff`,
`background`, `replica`.
"""
