"""Fixtures; the project's root ``conftest.py`` names this module in ``pytest_plugins``.

It is not an entry point, because pytest would then import it, and Channels, in every project that
has channels-lite installed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from channels.layers import get_channel_layer

from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.testing import Sent, fresh_layers

__all__ = ["channel_layer", "sent"]


@pytest.fixture
def sent() -> Iterator[Sent]:
    """What the test sends, on fresh layers."""
    with fresh_layers() as found:
        yield found


@pytest.fixture
def channel_layer(sent: Sent) -> BaseSQLiteChannelLayer:
    """The fresh default layer."""
    layer: BaseSQLiteChannelLayer = get_channel_layer()
    return layer
