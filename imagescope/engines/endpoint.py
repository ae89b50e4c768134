"""The connection to an endpoint: how it is reached, how long it is waited for, what is secret."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import httpx

from imagescope import __version__
from imagescope.config import ModelConfig
from imagescope.errors import UserError
from imagescope.redaction import redact

OPENAI = "https://api.openai.com/v1"
LARGEST = 16 << 20  # bytes of an answer
SHOWN = 300  # characters of a server's words that are repeated
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True)
class Reply:
    """What came back. status: HTTP's.  retry_after: seconds, where the server names them."""

    status: int
    kind: str  # the content type
    content: bytes
    retry_after: float | None = None


class Endpoint:
    """One base_url, asked by several threads at once.

    address: for messages, without user and password.  Raises UserError, naming the variable,
    where what the environment says of key, proxy or certificates cannot be used.
    """

    def __init__(self, config: ModelConfig):
        self._config = config
        given = config.base_url or os.environ.get("OPENAI_BASE_URL")
        base = given or OPENAI
        self.address = redact(base)
        self._key = os.environ.get(config.api_key_env, "").strip()
        if not self._key and not given:
            raise UserError(
                f"engine openai: no base_url for {config.model}, and the variable "
                f"{config.api_key_env} holds no key for OpenAI's own endpoint"
            )
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(
                f"engine openai: {config.api_key_env} holds characters that no key can have"
            )
        self._variables: tuple[str, ...] = ()  # those set that say how to connect
        self._url, self._client = self._connect(base)
        self._secrets = [self._key, *_userinfo(self._url)]

    def post(self, body: Mapping[str, Any]) -> Reply:
        """Asks for a chat completion. Raises httpx.HTTPError where nothing whole comes back."""
        answers = SimpleQueue[Reply | Exception]()

        def work() -> None:
            try:
                answers.put(self._exchange(body))
            except Exception as error:
                answers.put(error)

        # httpx limits the wait for each part alone, and headers may come a letter at a time
        Thread(target=work, daemon=True).start()
        try:
            answer = answers.get(timeout=self._config.connect_timeout + self._config.timeout)
        except Empty:
            raise httpx.ReadTimeout("the answer did not begin") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _exchange(self, body: Mapping[str, Any]) -> Reply:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        sent, content = json.dumps(body).encode(), bytearray()
        end = time.monotonic() + self._config.timeout
        with self._client.stream("POST", self._url, content=sent, headers=headers) as reply:
            for part in reply.iter_bytes():
                content += part
                if len(content) > LARGEST:
                    raise httpx.DecodingError(f"the answer has more than {LARGEST >> 20} MiB")
                if time.monotonic() > end:
                    raise httpx.ReadTimeout("the answer did not end")
        kind = reply.headers.get("Content-Type", "no content type")
        return Reply(reply.status_code, kind, bytes(content), _retry_after(reply.headers))

    def close(self) -> None:
        self._client.close()

    def redact(self, text: str) -> str:
        """A text of the server's without what must stay secret."""
        return redact(text, self._secrets)

    def line(self, text: str) -> str:
        """The same as one line for a message, cut where it is long."""
        text = "".join(c if c.isprintable() else " " for c in self.redact(text))
        text = " ".join(text.split())
        return text if len(text) <= SHOWN else text[:SHOWN] + "…"

    def unreachable(self, error: httpx.HTTPError) -> str:
        """What an error of `post` means, for a message."""
        why = self.line(str(error)).rstrip(".") or type(error).__name__
        config = self._config
        if isinstance(error, httpx.ConnectTimeout):
            return f"cannot be reached within {config.connect_timeout:g} s. Is the server up?"
        if isinstance(error, httpx.TimeoutException):
            return f"did not answer within {config.timeout:g} s (the role's `timeout`)"
        if isinstance(error, (httpx.DecodingError, httpx.TooManyRedirects)):
            return f"answered with no chat completion: {why}"
        set_here = f" ({', '.join(self._variables)} is set)" if self._variables else ""
        return f"cannot be reached: {why}{set_here}. Is the server up?"

    def _connect(self, base: str) -> tuple[httpx.URL, httpx.Client]:
        variables: tuple[str, ...] = CERTIFICATES
        try:
            url = httpx.URL(base)
            if url.scheme not in ("http", "https") or not url.host:
                raise ValueError("the address must begin with http:// or https://")
            if not _loopback(url.host):
                variables += PROXIES
            limits = httpx.Limits(max_connections=None)
            client = httpx.Client(
                # one's own machine is never asked through the environment's proxy
                transport=httpx.HTTPTransport(limits=limits) if _loopback(url.host) else None,
                limits=limits,
                timeout=httpx.Timeout(self._config.timeout, connect=self._config.connect_timeout),
                headers={"User-Agent": f"imagescope/{__version__}", "Accept-Encoding": "identity"},
                follow_redirects=True,
                max_redirects=5,
            )
        except Exception as error:  # whatever httpx, ssl, idna or a proxy's library raises
            named = [name for name in variables if os.environ.get(name)]
            look = f" (look at {', '.join(named)})" if named else ""
            why = " ".join(redact(str(error)).split())
            raise UserError(f"base_url {self.address}: {why}{look}") from None
        self._variables = tuple(n for n in variables if n in PROXIES and os.environ.get(n))
        return url.copy_with(path=url.path.rstrip("/") + "/chat/completions"), client


def _loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _userinfo(url: httpx.URL) -> list[str]:
    """The spellings in which a server could repeat an address's user and password."""
    if not url.userinfo:
        return []
    pair = f"{url.username}:{url.password}"
    encoded = base64.b64encode(pair.encode()).decode()
    return [url.userinfo.decode("ascii"), pair, encoded, url.password]


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds; the header has them as a number or as a date."""
    text = headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
