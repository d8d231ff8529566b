"""Alerts: what is wrong, told where people are: a channel of Slack, by the webhook of EFD_SLACK_WEBHOOK.

What belongs here: sending. What is told, and when: `defs/alerts.py`. The webhook is a secret and stands in no error.
"""

from __future__ import annotations

import httpx

from efd_pipelines.errors import ServiceUnavailable

_TIMEOUT_S = 10.0


class AlertsUnavailable(ServiceUnavailable):
    """Nobody could be told; whoever calls tries again."""

    remedy = "Does EFD_SLACK_WEBHOOK name an incoming webhook, and may this host reach it? It is tried again."


def tell(webhook: str, text: str) -> None:
    """Sends a message.

    Raises:
        AlertsUnavailable: it was not taken.
    """
    try:
        answer = httpx.post(webhook, json={"text": text}, timeout=_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AlertsUnavailable(f"The webhook of EFD_SLACK_WEBHOOK did not answer: {type(error).__name__}") from None
    if answer.is_error:
        raise AlertsUnavailable(f"The webhook of EFD_SLACK_WEBHOOK answered {answer.status_code}")
