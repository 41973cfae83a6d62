"""Exchange with other tools' formats: reading theirs into our records, writing ours as theirs.

Each format is a module; what it cannot hold is listed in its ``LOSSES`` and never dropped silently.
"""
