"""Keys of messages that the layers add."""

__all__ = ["HISTORY_ID", "HISTORY_IS_COMPLETE", "TRACE"]

#: The trace in which a message was sent.  Handlers do not see it.
TRACE = "__channels_lite_trace__"
#: In messages received from a group with a history: the position of the message; and False if the
#: channel has not received all earlier ones, and they are gone.
HISTORY_ID = "history_id"
HISTORY_IS_COMPLETE = "history_is_complete"
