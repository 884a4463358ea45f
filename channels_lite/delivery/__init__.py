"""DELIVERY: which way a message goes, and that it is delivered once, in order, if there is room.

Out: `outgoing`, `outbox`, `frames`, `backpressure`.  In: `reader` or `claims`, `reading`,
`arrivals`, `mailboxes`.  Beside them: `capacity`, `groups`, `generation`, `sweeper`.

Imports `store` and `wake`, and nothing of `layers`.  Runs on the loops that send and receive;
what comes back from the store may be on a thread of the store's.
"""
