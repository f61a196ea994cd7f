"""Scores a model's text against known answers: pure functions, no model.

Two families stand side by side and never share a name:

- HELMET's metrics, to the last bit (`helmet`, `rouge`, `alce`), as in princeton-nlp/HELMET at
  4526dfb, `utils.py`, `data.py` and `eval_alce.py`. Their known defects are kept, because published
  figures contain them.
- Corrected twins (`answers`, `choices`, `rouge.unicode_rouge`): empty golds never match, golds
  match whole words only, the last stated answer counts.
"""
