"""HELMET's files: its rows, its demonstrations, its layouts, its result files, its table.

Facts follow princeton-nlp/HELMET at 4526dfb. Which rows and demonstrations are drawn, how a prompt
is put together, how outputs are scored and how files are named is the same; the instruction
sentences are our own and can be replaced (`layout.load_templates`).
"""
