"""Corpora in, data sets out: conversations, preference pairs, splits, card, and their upload.

A data set is a folder: `sft/` and `preference/` with a Parquet file for each split that has rows,
`README.md` (the card), `croissant.json` and `summary.json`. Import from the modules.
"""
