"""A small world to run everything in: drawn radiographs, written reports, a model trained on them.

Nothing here comes from a patient, and nothing that the demo model says is about one.
"""
