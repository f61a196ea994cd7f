"""Grow a tree of clarifications for every question, so that nothing is lost and little is spent.

```
config      what a run is asked to do
calls       engine + ledger: admission, single recording, pauses
grounding   which pieces bear on a text: five ways
clarifications   near-duplicates among samples
growth      which node to expand next: ask / tell
tree        one question, from root to outcome
run         a corpus into a store; the same trees again, from the ledger alone
plan        what a run will cost, beforehand
segments    sealed parts of runs, and their merge
cluster     the same over many machines, by Ray
status      how far a run is, from its file
setup       from what a person typed to engine, tokenizer, judges
```
"""
