"""Methods × tasks × lengths: items in, append-only predictions and one summary out.

`items` is what is asked, `tasks` where items come from, `methods` how they are answered, `rules`
how replies are scored, `run` does the work and survives a kill, `statistics` and `summary` turn
predictions into tables with intervals, `helmet` reads and writes HELMET's files.
"""
