"""MONITOR: what operators see of it: metrics, traces, health, and what waits where.

Imports whatever the message's way is made of, and none of that imports it.  Runs where it is
asked: in a view, a command, or the thread that `metrics` has for itself.
"""
