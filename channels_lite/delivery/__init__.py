"""DELIVERY: which way a message goes, and that it is delivered once, in order, if there is room.

Out: `sending` (to whom), `local` (into a mailbox) or `outgoing` (away), `outbox`, which tries
`frames` and else makes rows; `backpressure`.
In: `reader` (looks) or `claims` (plain channels), `cursors`, `arrivals`, `mailboxes` and `plain`,
`receiving`.  Beside them: `capacity`, `groups`, `generation`, `sweeper`, `availability`, `missed`,
`stats`.
Where a relay is configured: `relayed` in the place of `sending`, `jobs` in that of `claims`, and
`incoming`, with `roster`, for what comes from other nodes.

Imports `store`, `wake` and `relay`, and nothing of `layers`.  Runs on the loops that send and
receive; what comes back from the store may be on a thread of the store's.
"""
