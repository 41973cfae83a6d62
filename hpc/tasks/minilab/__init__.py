"""MiniLab: a laboratory in small, with facts that no one can know without being told or trying.

Six stages tune six knobs; the right option depends on the substance a stage names, by a hidden
table. Trying costs runs of an instrument, an expert knows the table: the smallest task in which
guidance at the right moment decides between failure and success.
"""
