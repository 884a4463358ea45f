"""NATS: core NATS for publishes, JetStream for plain channels and their memberships."""

from channels_lite.relay.nats.link import NatsLink

__all__ = ["NatsLink"]
