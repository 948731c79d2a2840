"""Where messages go: mail, chat, webhooks, each by an address that ``apprise`` understands.

An address holds secrets: it is never shown. A channel is known by its name.
"""

from __future__ import annotations

import logging
from typing import Any

from pydantic import SecretStr

from ml_platform.mlops.alerts import Message
from ml_platform.product import Product
from ml_platform.secrets import resolve
from ml_platform.settings import AlertChannel, Settings


def wants(channel: AlertChannel, product: Product) -> bool:
    """Whether a product's news goes to a channel."""
    if channel.products and product.name not in channel.products:
        return False
    return not channel.owners or bool({*channel.owners} & {*product.owners})


def send(channel: AlertChannel, message: Message) -> bool:
    """Send one message; False if the channel didn't take it.

    Raises:
        ChannelError: the address can't be understood; it isn't shown.
    """
    import apprise

    # The library's log lines name hosts and tokens, and its errors come back as False.
    for name in ("apprise", "urllib3", "requests"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    kinds = {
        "error": apprise.NotifyType.FAILURE,
        "warning": apprise.NotifyType.WARNING,
        "well": apprise.NotifyType.SUCCESS,
    }
    service = apprise.Apprise()
    if not service.add(resolve(channel.url.get_secret_value())):
        raise ChannelError(
            f"the address of the alert channel {channel.name!r} can't be understood; accepted are addresses "
            "of apprise, like mailtos://… or json://…"
        )
    sent: Any = service.notify(
        title=message.title,
        body=message.body,
        notify_type=kinds[message.severity],
        body_format=apprise.NotifyFormat.TEXT,
    )
    return bool(sent)


class ChannelError(Exception):
    """A channel is set up wrongly; the message names it."""


def configured(settings: Settings) -> list[AlertChannel]:
    """The channels of a deployment: those with a name, and one for each plain address.

    Raises:
        ChannelError: two have one name.
    """
    urls = settings.alert_urls.get_secret_value().split() if settings.alert_urls else []
    unnamed = [
        AlertChannel(name=f"{url.partition(':')[0]}-{position}", url=SecretStr(url))
        for position, url in enumerate(urls, start=1)
    ]
    found = [*settings.alert_channels, *unnamed]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise ChannelError(f"two alert channels are named {name!r}")
    return found
