"""Search: a tree of clarifications for every question, crash-safe and resumable.

```
config      settings of a search
setup       engine, tokenizer and judges of a command
caller      engine behind the ledger: admission, single recording, pauses
grounding   which pieces bear on a text: five ways
growth      which nodes a tree expands next, how many questions grow at once
tree        one question, from root to outcome
run         a corpus into a store; the same trees again, from the ledger alone
plan        the cost of a run, beforehand
status      heartbeat and progress of a run
store       the record of a run: one file, a ledger of every call
shards      sealed segments of runs, their merge, and many machines by Ray
```
"""
