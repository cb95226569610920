"""Sessions through `skpr ssh-proxy` with a client library that shares no code with OpenSSH or skpr."""

import asyncio
import hashlib
import os
import shlex
import sys

import asyncssh


async def main(proxy: str) -> None:
    options = dict(proxy_command=shlex.split(proxy), known_hosts=None, username="skpr", client_keys=None, agent_path=None)
    async with asyncssh.connect("tools.shop.skpr", **options) as connection:
        for code in (0, 1, 42, 127):
            assert (await connection.run(f"exit {code}")).exit_status == code
        apart = await connection.run("echo out; echo err >&2")
        assert (apart.stdout, apart.stderr) == ("out\n", "err\n"), apart

        noise = os.urandom(8 << 20)
        back = await connection.run("cat", input=noise, encoding=None)
        assert hashlib.sha256(back.stdout).digest() == hashlib.sha256(noise).digest()

        async with connection.create_process("stty size; cat", term_type="xterm", term_size=(91, 37)) as shell:
            assert "37 91" in await shell.stdout.readline()
            shell.stdin.write("\x03")
            await shell.wait()

        async with connection.start_sftp_client() as sftp:
            async with sftp.open("/tmp/asyncssh", "wb") as file:
                await file.write(noise)
            await sftp.posix_rename("/tmp/asyncssh", "/tmp/asyncssh.2")
            assert "asyncssh.2" in await sftp.listdir("/tmp")
            async with sftp.open("/tmp/asyncssh.2", "rb") as file:
                assert await file.read() == noise
            await sftp.remove("/tmp/asyncssh.2")

        reader, writer = await connection.open_connection("127.0.0.1", 8080)
        assert await reader.read() == b"port\n"
        writer.close()
        try:
            await connection.open_connection("127.0.0.1", 9)
            raise AssertionError("a port at which nobody listens")
        except asyncssh.ChannelOpenError:
            pass
    print("asyncssh: all well")


asyncio.run(main(sys.argv[1]))
