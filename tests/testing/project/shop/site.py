"""A view that tells a group, and a consumer in it."""

from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.db import transaction
from django.http import HttpResponse
from django.urls import path

http = get_asgi_application()


def pay(request, number):
    from shop.models import Order

    if request.method == "POST":
        with transaction.atomic():
            Order.objects.create(number=number)
            message = {"type": "order.paid", "number": number}
            async_to_sync(get_channel_layer().group_send)("orders", message)
    return HttpResponse()


class Orders(AsyncJsonWebsocketConsumer):
    groups = ("orders",)

    async def order_paid(self, event):
        await self.send_json({"paid": event["number"]})


urlpatterns = [path("pay/<int:number>", pay)]
application = ProtocolTypeRouter(
    {"http": http, "websocket": URLRouter([path("ws", Orders.as_asgi())])}
)
