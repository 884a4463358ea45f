"""Redis, or a server with its protocol: pub/sub for publishes, lists for plain channels."""

from channels_lite.relay.redis.link import RedisLink

__all__ = ["RedisLink"]
