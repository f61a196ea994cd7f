"""Scoring rules: pure functions that compare a model's text with known answers.

Two families never share a name:

- HELMET's metrics, to the last bit (`helmet`, `rouge`), as in princeton-nlp/HELMET at 4526dfb,
  `utils.py`, `data.py` and `eval_alce.py`. Their known defects are kept, because published figures
  contain them.
- Corrected twins (`answers`, `rouge.unicode_rouge`): empty golds never match, golds match whole
  words only, the last stated answer counts.

`rules` puts both together: one named rule for each kind of task.
"""
