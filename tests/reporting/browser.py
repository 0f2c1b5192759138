"""A headless Chromium, driven over its DevTools protocol.

    async with opened(page_file, width=390) as page:
        await page.value("document.title")

What the page says on its console and what it asks the network for is recorded from before it
loads. https://chromedevtools.github.io/devtools-protocol
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ON_MACOS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-port=0",
)
HOW_TO_GET_IT = (
    "no Chromium or Chrome was found: apt-get install chromium, or install Chrome on macOS"
)
PATIENCE = 60.0


def find_browser() -> str | None:
    on_path = (shutil.which(name) for name in NAMES)
    on_macos = (path for path in ON_MACOS if Path(path).exists())
    return next((found for found in (*on_path, *on_macos) if found), None)


class Page:
    """One tab: what its console `said`, its `requests`, and why some of them were `blocked`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.said: list[str] = []
        self.requests: list[str] = []
        self.blocked: list[str] = []
        self._socket = socket
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self._last = 0

    async def on_event(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            else:
                self._note(told["method"], told["params"])

    def _note(self, event: str, params: dict[str, Any]) -> None:
        match event:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Network.loadingFailed":
                self.blocked.append(params.get("blockedReason", params["errorText"]))
            case "Runtime.exceptionThrown":
                self.said.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.said.append(str([one.get("value") for one in params["args"]]))
            case "Log.entryAdded":
                self.said.append(params["entry"]["text"])
            case "Page.javascriptDialogOpening":
                self.said.append(f"dialog: {params['message']}")

    async def do(self, method: str, **params: Any) -> dict[str, Any]:
        """Carry out one command of the protocol."""
        self._last += 1
        answer = self._answers[self._last] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._last, "method": method, "params": params})
        told = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in told, told
        result: dict[str, Any] = told["result"]
        return result

    async def open(self, file: Path) -> None:
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.do(f"{domain}.enable")
        await self.do("Page.navigate", url=file.as_uri())
        await asyncio.wait_for(self._loaded.wait(), PATIENCE)

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to, as JSON."""
        told = await self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def type(self, selector: str, text: str) -> None:
        """Put the focus on an element and type, key by key."""
        await self.value(f"document.querySelector({json.dumps(selector)}).focus()")
        for letter in text:
            await self.do("Input.dispatchKeyEvent", type="keyDown", text=letter)
            await self.do("Input.dispatchKeyEvent", type="keyUp", text=letter)

    async def choose(self, label: str, option: str) -> None:
        """Choose the option that reads `option` in the select called `label`."""
        box = f"select[aria-label={json.dumps(label)}]"
        await self.value(
            f"(() => {{ const box = document.querySelector({json.dumps(box)});"
            f"box.value = [...box.options].find((o) => o.text === {json.dumps(option)}).value;"
            "box.dispatchEvent(new Event('change')); })()"
        )

    async def picture(self) -> bytes:
        """What is to be seen now, as a PNG."""
        shot = await self.do("Page.captureScreenshot")
        return base64.b64decode(shot["data"])


@asynccontextmanager
async def opened(
    file: Path, *, width: int = 1280, height: int = 900, dark: bool = False
) -> AsyncIterator[Page]:
    """`file`, an absolute path, in a fresh browser, loaded."""
    async with (
        _running() as address,
        aiohttp.ClientSession() as session,
        session.ws_connect(address, max_msg_size=0) as socket,
    ):
        page = Page(socket)
        listening = asyncio.create_task(page.on_event())
        try:
            await page.do(
                "Emulation.setDeviceMetricsOverride",
                width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
            )  # fmt: skip
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            await page.do("Emulation.setEmulatedMedia", features=[scheme])
            await page.open(file)
            yield page
        finally:
            listening.cancel()


@asynccontextmanager
async def _running() -> AsyncIterator[str]:
    """A browser process; gives the address of its one tab's socket."""
    found = find_browser()
    assert found, HOW_TO_GET_IT
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            found, *FLAGS, f"--user-data-dir={profile}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        assert process.stderr is not None
        try:
            port = await asyncio.wait_for(_port(process.stderr), PATIENCE)
            reading = asyncio.create_task(process.stderr.read())
            yield await _tab(port)
        finally:
            _end(process.pid)
            await process.wait()
            await reading


async def _port(stderr: asyncio.StreamReader) -> int:
    async for line in stderr:
        if b"DevTools listening on" in line:
            return int(line.rsplit(b":", 1)[1].split(b"/")[0])
    raise AssertionError("the browser ended before it listened")


async def _tab(port: int) -> str:
    address = f"http://127.0.0.1:{port}/json/list"
    async with aiohttp.ClientSession() as session, session.get(address) as response:
        tabs = await response.json()
    return str(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))


def _end(pid: int) -> None:
    """Its own process group, which holds its children too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
