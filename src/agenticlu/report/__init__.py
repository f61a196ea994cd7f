"""One self-contained HTML page, and the same figures as JSON, from a run's files.

`sources` reads the files, `data` is what a page is made of, `figures` computes from it, `charts`
says what is drawn and `plots` draws it, `blocks` packs trees and documents, `page` writes.
Everything but `sources` is pure. `viewer/` is the script that shows the trees in a browser.
"""
