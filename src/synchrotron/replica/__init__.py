"""A copy of the data: run, undo, replay, reconcile, snapshots, outcomes.

In reading order: `outcomes`, `events`, `bell`, `live`, `reversing`, `runner`, `impurity`,
`attempts`, `sources`, `strict`, `ahead`, `revision`, `staging`, `floors`, `exchange`, `engine`,
`transport`, `syncing`, `backoff`, `background`, `replica`.
"""
