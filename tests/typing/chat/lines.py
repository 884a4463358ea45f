from typing import Literal, TypedDict

from channels.layers import get_channel_layer

from channels_lite.layers.base import BaseSQLiteChannelLayer


class Line(TypedDict):
    type: Literal["chat.line"]
    text: str


async def tell(text: str) -> list[str]:
    layer = get_channel_layer()
    assert isinstance(layer, BaseSQLiteChannelLayer)
    await layer.group_send("room", Line(type="chat.line", text=text))
    return await layer.group_channels("room")
