"""Evaluates methods on tasks at several lengths: append-only predictions, one summary.

`config` holds the settings of a run; `tasks` makes or loads its items, `methods` answers them;
`plan` finds what is left to ask and what it costs; `run` and `runner` do the work, which survives
a kill. `predictions` is the file that grows, `summary` turns it into `results`, `tables` renders
them. `scoring` holds the rules, `helmet` reads and writes HELMET's files.
"""
