"""Keys of messages that the layers add."""

__all__ = ["HISTORY_GROUP", "HISTORY_ID", "HISTORY_IS_COMPLETE"]

#: In messages received from a group with a history: the position of the message, and the group; and
#: False if the channel has not received all earlier ones, and they are gone.
HISTORY_ID = "history_id"
HISTORY_GROUP = "history_group"
HISTORY_IS_COMPLETE = "history_is_complete"
