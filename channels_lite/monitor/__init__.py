"""MONITOR: what operators see: metrics, traces, health, and snapshots of waiting messages.

Imports the modules that carry messages, and none of them imports it.  Runs in a view, a command, or
the thread of `metrics`.
"""
