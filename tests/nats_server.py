"""A real NATS server that tests start, kill and start again; and a way to send messages to it."""

import asyncio
import contextlib
import socket
import subprocess
import time


class NatsServer:
    """`nats-server` on a loopback port that stays the same, with its streams in a folder."""

    def __init__(self, program, folder, *, jetstream=True):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        folder.mkdir(parents=True, exist_ok=True)
        self.url, self.process = f"nats://127.0.0.1:{self.port}", None
        config = folder / "server.conf"
        config.write_text(
            f"listen: 127.0.0.1:{self.port}\nmax_payload: 16MB\n"
            + (f'jetstream {{store_dir: "{folder}"}}\n' if jetstream else "")
        )
        self.command = [program, "-c", str(config)]

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            time.sleep(0.02)
        raise AssertionError("nats-server does not start")

    def kill(self):
        """As a power cut would."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def publish(self, subject, payloads):
        """Sends messages and waits until the server has said of each that it is kept."""
        asyncio.run(self.publishing(subject, iter(payloads)))

    async def publishing(self, subject, payloads, *, pause=0):
        """The same in a loop of the caller's, with a pause after some; gives how many were acknowledged."""
        import nats
        from nats.js.errors import BadRequestError

        connection, sent = await nats.connect(self.url), 0
        jetstream = connection.jetstream()
        with contextlib.suppress(BadRequestError):  # it is there already
            await jetstream.add_stream(name=subject, subjects=[subject])
        while some := [data for _, data in zip(range(250), payloads, strict=False)]:
            await asyncio.gather(*(jetstream.publish(subject, data, timeout=30) for data in some))
            sent += len(some)
            await asyncio.sleep(pause)
        await connection.close()
        return sent
