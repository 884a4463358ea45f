from django.db import models


class Order(models.Model):
    """What is paid."""

    number = models.IntegerField()

    def __str__(self):
        return str(self.number)
