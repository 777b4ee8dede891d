#!/usr/bin/env python3
"""`gptkit serve` under clients that leave, read nothing or send garbage.

    python3 scripts/check_serve_load.py --model DIR [--gptkit target/release/gptkit] [--clients 200] [--requests 5]

Each client sends its requests one after the other: 10% close the connection after a random number of tokens, 5% never
read, 5% send garbage, the others read their stream to its end. Then a row that is canceled, while a prompt is read and
while tokens are generated, has to be free within 0.1 s. Checks that every other stream is whole, that nothing runs or
waits at the end, that memory is back within 5%, and that the server's counters are those of the clients.
"""
import argparse, asyncio, json, pathlib, random, re, sys, time, urllib.request

import aiohttp

from serving import Server


class Clients:
    def __init__(self, server, model, options):
        self.server, self.model, self.options = server, model, options
        self.whole = self.left = self.silent = self.garbage = self.refused = 0
        self.prompt_tokens = self.completion_tokens = 0

    async def one(self, number, session):
        dice = random.Random(number)
        for _ in range(self.options.requests):
            kind = dice.random()
            if kind < 0.05:
                await self.send_garbage(dice)
            elif kind < 0.10:
                await self.send_and_wait(dice)
            else:
                await self.read(session, dice, leaves=kind < 0.20)

    def body(self, dice, new=None):
        prompt = [dice.randrange(4, self.options.vocab) for _ in range(dice.randrange(4, 60))]
        return {"model": self.model, "prompt": prompt, "max_tokens": new or dice.randrange(4, 60), "ignore_eos": True,
                "stream": True, "seed": dice.randrange(1 << 30), "stream_options": {"include_usage": True}}

    async def read(self, session, dice, leaves):
        body = self.body(dice)
        stop_after = dice.randrange(1, body["max_tokens"]) if leaves else None
        while True:
            async with session.post(f"{self.server.url}/v1/completions", json=body) as response:
                if response.status == 429:
                    self.refused += 1
                    await asyncio.sleep(min(2, float(response.headers["retry-after"])) * dice.random())
                    continue
                assert response.status == 200, await response.text()
                chunks, ended = 0, False
                async for line in response.content:
                    if line.startswith(b"data: [DONE]"):
                        ended = True
                    elif line.startswith(b"data: "):
                        chunk = json.loads(line[6:])
                        assert "error" not in chunk, chunk
                        chunks += 1
                        if usage := chunk.get("usage"):
                            self.prompt_tokens += usage["prompt_tokens"]
                            self.completion_tokens += usage["completion_tokens"]
                            assert usage["completion_tokens"] == body["max_tokens"], (usage, body["max_tokens"])
                    if stop_after and chunks >= stop_after:
                        self.left += 1
                        response.close()
                        return
                assert ended, "a stream ended without [DONE]"
                self.whole += 1
                return

    async def send_and_wait(self, dice):
        body = json.dumps(self.body(dice)).encode()
        host, port = self.server.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                     + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        await asyncio.sleep(1)
        writer.close()
        self.silent += 1

    async def send_garbage(self, dice):
        host, port = self.server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(dice.randbytes(dice.randrange(1, 500)) + b"\r\n\r\n")
        try:
            await asyncio.wait_for(reader.read(), 15)
        except (asyncio.TimeoutError, ConnectionError):
            pass
        writer.close()
        self.garbage += 1


def metrics(server):
    text = urllib.request.urlopen(f"{server.url}/metrics").read().decode()
    return {key: float(value) for key, value in re.findall(r"^(gptkit_\S+) (\S+)$", text, re.M)}


def memory(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024


async def until_idle(server, seconds=60):
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        now = metrics(server)
        if now["gptkit_requests_running"] == now["gptkit_requests_waiting"] == 0:
            return time.perf_counter() - begun
        await asyncio.sleep(0.002)
    sys.exit(f"FAIL  the server is still busy: {now}")


async def cancel(server, model, options, prompt, wait):
    """Seconds until a request is gone whose client leaves after `wait` seconds."""
    body = {"model": model, "prompt": [5] * prompt, "max_tokens": options.context - prompt, "ignore_eos": True, "stream": True}
    async with aiohttp.ClientSession() as session:
        task = asyncio.create_task(session.post(f"{server.url}/v1/completions", json=body))
        await asyncio.sleep(wait)
        busy = metrics(server)["gptkit_requests_running"]
        task.cancel()
    if not busy:
        return None
    return await until_idle(server)


async def check(server, model, options):
    failed = False

    def say(name, good, detail):
        nonlocal failed
        failed |= not good
        print(f"{'ok  ' if good else 'FAIL'}  {name:18} {detail}", flush=True)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=600)) as session:
        # Twice, since the allocator keeps what the busiest moment took.
        for first in [10_000, 20_000]:
            warm = Clients(server, model, options)
            await asyncio.gather(*(warm.one(first + i, session) for i in range(options.clients)))
            await until_idle(server)
        before, begun = memory(server), time.perf_counter()
        first = metrics(server)
        clients = Clients(server, model, options)
        await asyncio.gather(*(clients.one(i, session) for i in range(options.clients)))
        took = time.perf_counter() - begun
    await until_idle(server)
    await asyncio.sleep(1)
    last, after = metrics(server), memory(server)
    more = lambda key: last.get(key, 0) - first.get(key, 0)
    say("streams", True, f"{clients.whole} whole, {clients.left} left, {clients.silent} never read, {clients.garbage} garbage, "
        f"{clients.refused} refused with 429, {took:.1f} s")
    say("idle", last["gptkit_requests_running"] == last["gptkit_requests_waiting"] == 0, "nothing runs or waits")
    say("memory", abs(after / before - 1) < 0.05, f"{before / 1e6:.0f} MB before, {after / 1e6:.0f} MB after")
    # A client that never reads does not see that it was refused.
    ended = more('gptkit_request_success_total{finish_reason="length"}') + more('gptkit_request_success_total{finish_reason="stop"}')
    canceled = sum(more(key) for key in last if key.startswith("gptkit_cancelled_total"))
    refused = more('gptkit_admission_rejections_total{reason="queue_full"}')
    sent = clients.whole + clients.left + clients.silent + clients.refused
    say("counters", ended + canceled + refused == sent and clients.whole <= ended and clients.refused <= refused,
        f"{ended:.0f} ended, {canceled:.0f} canceled and {refused:.0f} refused of {sent}")
    say("tokens", more("gptkit_generation_tokens_total") >= clients.completion_tokens,
        f"{more('gptkit_generation_tokens_total'):.0f} generated, {clients.completion_tokens} of them in whole streams")
    for name, prompt, wait in [("prompt", options.context - 4, 0.06), ("writing", 4, 0.3)]:
        times = [await cancel(server, model, options, prompt, wait) for _ in range(10)]
        times = [seconds for seconds in times if seconds is not None]
        if not times:
            print(f"      cancel, {name:10} not measured: the model is too fast")
            continue
        detail = f"{len(times)} of 10 were running; the slowest was free after {max(times) * 1e3:.0f} ms"
        say(f"cancel, {name}", max(times) < 0.1, detail)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gptkit", default="target/release/gptkit")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=5)
    parser.add_argument("--cache", type=int, default=40, help="megabytes for keys and values")
    options = parser.parse_args()
    config = json.loads((options.model / "config.json").read_text())
    options.vocab, options.context = config["vocab_size"], config["n_positions"]
    # A small memory for earlier conversations is full before the first measurement.
    with Server(options.gptkit, "--model", f"checked={options.model}", "--cache", str(options.cache)) as server:
        sys.exit(asyncio.run(check(server, "checked", options)))


if __name__ == "__main__":
    main()
