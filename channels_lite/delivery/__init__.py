"""DELIVERY: the path of a message; it is delivered once, in order, if there is room.

Out: `sending` (the recipients), `local` (into a mailbox) or `outgoing` (to other processes),
`outbox`, which tries `frames` and otherwise writes rows; `backpressure`.
In: `reader` (looks) or `claims` (plain channels), `cursors`, `arrivals`, `mailboxes` and `plain`,
`receiving`.  Also: `capacity`, `groups`, `generation`, `sweeper`, `availability`, `missed`,
`stats`.
Groups with a history: `log` (append, join, read), `histories` (looks, and members that are behind),
`roll`, `remembered`.
With a relay: `relayed` replaces `sending`, `jobs` replaces `claims`, and `incoming`, with `roster`,
receives messages from other nodes.

Imports `store`, `wake` and `relay`, but not `layers`.  Runs on the sending and receiving loops.
Callbacks of the store may run on a thread of the store.
"""
