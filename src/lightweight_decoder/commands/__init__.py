"""The commands: one typed function each, importable and callable without Hydra.

``train``, ``evaluate_run``, ``build_bank``, ``decode_file`` and ``calibrate`` are each in the
module that does the work. What is built only while a command runs (a search needs a bank, an
encoder a device) is given as a *part*: a class or function, with ``functools.partial`` where some
of its arguments are to differ from their defaults.
"""
