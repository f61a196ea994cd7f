"""HELMET's files: its rows and demonstrations, its prompts, its result files and its table.

Facts follow princeton-nlp/HELMET at 4526dfb. The rows and demonstrations drawn, the form of the
prompts, the scoring and the file names are HELMET's; the instruction sentences are our own and can
be replaced (`specs.load_templates`).
"""
