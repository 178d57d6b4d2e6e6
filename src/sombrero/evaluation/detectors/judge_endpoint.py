"""An OpenAI-compatible endpoint, asked through the ``openai`` client: where it may be, how fast, how often."""

from __future__ import annotations

import ipaddress
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from sombrero.errors import UsageError

MAX_REPLY_TOKENS = 32
LONGEST_REASON = 200
NO_KEY = "none"
"""The client wants some key; local servers want none."""


class OutageError(Exception):
    """The endpoint gave no reply after all attempts. The message holds no key and no text that was sent."""


class Pacer:
    """Lets at most ``per_minute`` questions start in a minute, evenly spaced, whatever the number of threads."""

    def __init__(self, per_minute: float | None) -> None:
        self._pause = 0.0 if per_minute is None else 60.0 / per_minute
        self._next = 0.0
        self._guard = threading.Lock()

    def wait(self) -> None:
        """Return when the next question may start."""
        if self._pause == 0.0:
            return
        with self._guard:
            start = max(time.monotonic(), self._next)
            self._next = start + self._pause
        time.sleep(max(0.0, start - time.monotonic()))


class Endpoint:
    """One model behind one base URL. Close it when done.

    Raises UsageError when the client is not installed, when the key cannot be one, or when the address is of another
    machine and ``remote`` is False.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None,
        timeout: float,
        retries: int,
        per_minute: float | None,
        remote: bool,
    ) -> None:
        loopback = is_loopback(base_url)
        if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key):
            raise UsageError("the judge's API key is empty, or holds characters that no key holds; set it anew")
        if not loopback and not remote:
            raise UsageError(
                f"the judge at {base_url} is not on this machine, and it would be sent harmful prompts and the "
                "responses to them. Use a server on 127.0.0.1, or say judge_remote = true if those may leave "
                "this machine"
            )
        try:
            import openai
        except ImportError as error:
            raise UsageError(
                "detector 'judge' needs the package openai, which is not installed; pip install 'sombrero[judge]'"
            ) from error
        self.model, self.base_url = model, base_url
        self._key = api_key
        self._errors = openai.OpenAIError
        self._pacer = Pacer(per_minute)
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=api_key or NO_KEY,
            timeout=timeout,
            max_retries=retries,
            # what was said to be for this machine goes neither to another one by redirect, nor through a proxy
            http_client=openai.DefaultHttpxClient(follow_redirects=False, trust_env=not loopback),
        )
        # the client takes these from the environment; they are nobody's business here
        self._client.organization = self._client.project = None

    def ask(self, messages: list[dict[str, str]]) -> str:
        """The reply, greedy; empty when the model says nothing. Raises :class:`OutageError`."""
        self._pacer.wait()
        request: Any = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": MAX_REPLY_TOKENS}
        try:
            reply: Any = self._client.chat.completions.create(**request)
        except self._errors as error:
            raise OutageError(self._reason(error)) from None  # the cause holds the request, with the key and the texts
        except ValueError as error:  # a body that says it is JSON, and is not
            raise OutageError(f"its reply cannot be read ({type(error).__name__})") from None
        choices = getattr(reply, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise OutageError("its reply is none of the chat completions API; see that the URL ends in /v1")
        content = choices[0].message.content
        return content if isinstance(content, str) else ""

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def _reason(self, error: Exception) -> str:
        status = getattr(error, "status_code", None)
        # the body of an error is the server's to word: it may repeat the key, or the text that it was sent
        detail = "" if status is None else f", HTTP {status}"
        cause = error.__cause__
        detail += f", {type(cause).__name__}: {cause}" if status is None and cause is not None else ""
        reason = f"{type(error).__name__}{detail}"[:LONGEST_REASON]
        return reason.replace(self._key, "***") if self._key else reason


def is_loopback(base_url: str) -> bool:
    """Whether the address is on this machine by its own wording: ``localhost``, or a loopback IP address."""
    host = urlsplit(base_url).hostname or ""
    if host.casefold() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name: where it leads is known when it is too late
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
