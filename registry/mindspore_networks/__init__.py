"""The networks that checkpoints can be filled into, one file a family. `table` lists them.

Workers and the Python client import this: standard library and MindSpore only, Python 3.9 syntax.
"""
