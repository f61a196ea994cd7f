"""Training on token tries: all traces of a document in one pass over one shared prefix, exactly.

encode (rows to token ids) → plan (ids to a trie, its rectangles and edges) → attention (over
kernels) → losses → loop. Nothing heavy is imported before it is used.
"""
