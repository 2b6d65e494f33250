"""What the decorrelation loss changes, and what it does not: ``python -m`` this package.

Depends on all rooms.
"""
