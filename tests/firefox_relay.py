"""Firefox, as Playwright starts it, with the commands it lacks taken as done.

Playwright drives an installed Firefox by WebDriver BiDi, and at every new page sends commands of emulation that the
long-term releases do not know yet. This program is started in place of Firefox: it starts it, and relays what the two
say to each other. That a command of emulation is unknown becomes an empty success; all else passes as it is.
"""

import asyncio
import json
import re
import signal
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

LISTENS = re.compile(rb"WebDriver BiDi listening on (ws://\S+)")


def lenient(text):
    """An answer; a success if it says that a command of emulation is unknown."""
    message = json.loads(text)
    if message.get("error") == "unknown command" and "emulation." in message.get("message", ""):
        return json.dumps({"type": "success", "id": message["id"], "result": {}})
    return text


async def main(firefox, *arguments):
    process = await asyncio.create_subprocess_exec(firefox, *arguments, stderr=asyncio.subprocess.PIPE)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, process.terminate)

    async def relay(page):
        target = address + page.request.path
        async with connect(target, max_size=None, compression=None, ping_interval=None) as browser:

            async def there():
                async for text in page:
                    await browser.send(text)

            async def back():
                async for text in browser:
                    await page.send(lenient(text))

            await asyncio.wait([asyncio.create_task(each()) for each in (there, back)], return_when="FIRST_COMPLETED")

    async for line in process.stderr:
        if found := LISTENS.search(line):
            address = found[1].decode()
            server = await serve(relay, "127.0.0.1", 0, max_size=None, compression=None, ping_interval=None)
            port = server.sockets[0].getsockname()[1]
            line = b"WebDriver BiDi listening on ws://127.0.0.1:%d\n" % port
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
    return await process.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
