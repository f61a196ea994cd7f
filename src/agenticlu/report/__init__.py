"""One self-contained HTML page, and the same figures as JSON, from a run's files.

`sources` reads the files, `data` is what a page is made of, `figures` computes from it, `plots`
draws, `page` writes. Everything but `sources` is pure.
"""
