"""Foundations without domain words: errors, ids, atomic files, framed logs, locks, logging."""
