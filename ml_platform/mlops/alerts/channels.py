"""Where messages go: mail, chat, webhooks, each by an address that ``apprise`` understands.

An address holds secrets: it is never shown. A channel is known by its name.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_platform.contract.product import Product
from ml_platform.contract.secrets import Secret, SecretError
from ml_platform.mlops.alerts.messages import Message
from ml_platform.settings import AlertChannel, Settings

#: Within so many seconds every channel must have taken its message: a tick that lasts longer is ended by the
#: daemon, and its cursor is lost.
SEND_SECONDS = 20.0


@dataclass(frozen=True)
class Outgoing:
    """A message to a channel."""

    channel: AlertChannel
    message: Message


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
        "resolved": apprise.NotifyType.SUCCESS,
    }
    service = apprise.Apprise()
    if not service.add(channel.url.value):
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


def send_all(outgoing: Mapping[str, Outgoing], seconds: float | None = None) -> dict[str, str]:
    """Send all messages at once, each on its own: whatever one channel raises or waits for is its own.

    Returns:
        By key, why a channel took no message, without anything of its address; empty if it took it. One that
        is too slow may have taken it all the same.
    """
    results: dict[str, str] = {}

    def deliver(name: str, dispatch: Outgoing) -> None:
        try:
            results[name] = "" if send(dispatch.channel, dispatch.message) else "took no message"
        except (ChannelError, SecretError) as error:
            results[name] = str(error)
        except BaseException as error:  # the end of this thread, whatever it is
            results[name] = f"failed with {type(error).__name__}"

    # Threads that don't end with this process's work would keep it from ending, so no pool.
    threads = [
        threading.Thread(target=deliver, args=(name, dispatch), daemon=True)
        for name, dispatch in outgoing.items()
    ]
    limit = SEND_SECONDS if seconds is None else seconds
    end = time.monotonic() + limit
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return {name: results.get(name, f"did not answer within {limit:g} seconds") for name in outgoing}


class ChannelError(Exception):
    """A channel is set up wrongly; the message names it."""


def configured(settings: Settings) -> list[AlertChannel]:
    """The channels of a deployment: those with a name, and one for each plain address.

    A name that is given again gets a number, so that each channel has a state of its own.
    """
    urls = settings.alert_urls.get_secret_value().split() if settings.alert_urls else []
    unnamed = [
        AlertChannel(name=f"{url.partition(':')[0]}-{position}", url=Secret(url))
        for position, url in enumerate(urls, start=1)
    ]
    found: dict[str, AlertChannel] = {}
    for channel in [*settings.alert_channels, *unnamed]:
        name, number = channel.name, 1
        while name in found:
            number += 1
            name = f"{channel.name} ({number})"
        found[name] = channel if name == channel.name else channel.model_copy(update={"name": name})
    return list(found.values())
