#!/usr/bin/env python3
"""Speed and latency of `gptkit serve`, or of another server with OpenAI's API.

    python3 scripts/bench_serve.py --url http://127.0.0.1:8000 [--model NAME] [--case streams|mix|poisson] …

Three cases:

    streams   1, then 4, then 16 equal streams at a time: generated tokens a second, and the ratio to one stream;
              with --against URL, of two servers by turns, and the ratio of the first to the second
    mix       eight prompts of --long tokens begin; meanwhile short prompts of 32 tokens come: time to their first token
    poisson   requests arrive at --rate a second for --seconds: time to first token, time between tokens, tokens a second

Prompts are token ids drawn with a seed, so that no prompt begins like another. Nothing else should run meanwhile.
Against llama.cpp's server, on the same weights:

    gptkit export --model DIR --format gguf --quantize bf16 --out model.gguf
    llama-server -m model.gguf --port 8001 -np 16 -c 16384 --threads 2
    gptkit serve --model DIR --dtype bf16 &
    python3 scripts/bench_serve.py --against http://127.0.0.1:8001
"""
import argparse, asyncio, json, random, statistics, time

import aiohttp


async def ask(session, options, prompt, new, seed, url=None):
    """Time to the first token, times between tokens and the number of tokens of one streamed request."""
    body = {"prompt": prompt, "max_tokens": new, "stream": True, "seed": seed, "ignore_eos": True, "temperature": 1.0,
            "stream_options": {"include_usage": True}}
    if options.model:
        body["model"] = options.model
    begun, last, first, between, n = time.perf_counter(), None, None, [], 0
    async with session.post(f"{url or options.url}/v1/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(await response.text())
        async for line in response.content:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            chunk, now = json.loads(line[6:]), time.perf_counter()
            if chunk.get("usage"):
                n = chunk["usage"]["completion_tokens"]
            if chunk["choices"]:
                first = first or now - begun
                between += [now - last] if last else []
                last = now
    return first, between, n


def prompt(options, dice, length):
    return [dice.randrange(100, options.vocab) for _ in range(length)]


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def rate(session, options, url, dice, n):
    """Tokens a second of `n` equal streams."""
    prompts = [prompt(options, dice, 32) for _ in range(n)]
    begun = time.perf_counter()
    results = await asyncio.gather(*(ask(session, options, one, options.new, i, url) for i, one in enumerate(prompts)))
    tokens = sum(result[2] for result in results)
    if tokens != n * options.new:
        raise RuntimeError(f"{url} generated {tokens} tokens instead of {n * options.new}")
    return tokens / (time.perf_counter() - begun)


async def streams(session, options):
    dice, urls, counts = random.Random(1), [options.url, *options.against], [1, 4, 16]
    for url in urls:
        await rate(session, options, url, dice, 1)
    # Of one turn, all rates are measured one after the other: a machine's speed changes from minute to minute.
    turns = [[[await rate(session, options, url, dice, n) for url in urls] for n in counts] for _ in range(options.turns)]
    for i, n in enumerate(counts):
        for u, url in enumerate(urls):
            now = statistics.median(turn[i][u] for turn in turns)
            print(f"{n:3} streams  {now:8.1f} tokens/s  {of([turn[i][u] / turn[0][u] for turn in turns])} times one stream  {url}")
        if len(urls) > 1:
            print(f"{n:3} streams  ratio {of([turn[i][0] / turn[i][1] for turn in turns])}")


def of(ratios):
    """The median, and from where to where they go."""
    return f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


async def mix(session, options):
    dice = random.Random(2)
    long = [asyncio.create_task(ask(session, options, prompt(options, dice, options.long), 8, i)) for i in range(8)]
    firsts = []
    for i in range(options.short):
        await asyncio.sleep(0.15)
        firsts.append(asyncio.create_task(ask(session, options, prompt(options, dice, 32), 8, i)))
    firsts = [(await task)[0] for task in firsts]
    longs = [(await task)[0] for task in long]
    print(f"time to first token of {len(firsts)} short prompts: median {statistics.median(firsts):.3f} s, "
          f"95% {percentile(firsts, 0.95):.3f} s; of the long ones: {min(longs):.2f} to {max(longs):.2f} s")


async def poisson(session, options):
    dice, tasks, begun = random.Random(3), [], time.perf_counter()
    while time.perf_counter() - begun < options.seconds:
        tasks.append(asyncio.create_task(ask(session, options, prompt(options, dice, dice.randrange(16, 256)), options.new, len(tasks))))
        await asyncio.sleep(dice.expovariate(options.rate))
    results = await asyncio.gather(*tasks)
    took = time.perf_counter() - begun
    firsts, between = [result[0] for result in results], [gap for result in results for gap in result[1]]
    print(f"{len(results)} requests in {took:.1f} s  {sum(result[2] for result in results) / took:.1f} tokens/s  "
          f"first token: median {statistics.median(firsts):.3f} s, 95% {percentile(firsts, 0.95):.3f} s  "
          f"between tokens: median {statistics.median(between) * 1e3:.1f} ms, 99% {percentile(between, 0.99) * 1e3:.1f} ms")


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--against", metavar="URL", nargs=1, default=[], help="second server of the case streams")
    parser.add_argument("--turns", type=int, default=3, help="measurements of the case streams, of which the median counts")
    parser.add_argument("--model")
    parser.add_argument("--case", default="streams", choices=["streams", "mix", "poisson"])
    parser.add_argument("--vocab", type=int, default=50000)
    parser.add_argument("--new", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--long", type=int, default=1000, help="tokens of a long prompt")
    parser.add_argument("--short", type=int, default=40, help="number of short prompts")
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        await {"streams": streams, "mix": mix, "poisson": poisson}[options.case](session, options)


if __name__ == "__main__":
    asyncio.run(main())
