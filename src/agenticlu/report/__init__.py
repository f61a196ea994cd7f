"""Reports: a self-contained HTML page about a run, and the same figures as JSON.

`sources` reads the files of the other stages, `figures` holds what a page is made of and computes
what only a report shows, `charts` chooses what is drawn and `plots` draws it, `page` writes.
Everything but `sources` is pure. `viewer/` is the script that shows the trees in a browser.
"""
