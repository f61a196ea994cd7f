"""Methods × tasks × lengths: items in, append-only predictions and one summary out.

`config` is what a run is told, `tasks` where its items come from, `methods` how they are answered,
`plan` what is left to ask and what it costs, `run` and `runner` the work itself, which survives a
kill. `predictions` is the file that it appends to, `summary` turns that into `results`, and
`tables` renders them. `helmet` reads and writes HELMET's files.
"""
