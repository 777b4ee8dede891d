#!/usr/bin/env python3
"""Official clients of OpenAI's API against `gptkit serve`: chat, streams, log-probabilities, errors, a cut stream.

    python3 scripts/check_clients.py --model DIR [--reward DIR] [--gptkit target/release/gptkit] [--node DIR]

DIR is a chat model. The script starts the server on a free port and needs the packages openai and langchain-openai; with
--node, a folder in which `npm install openai` was run, it checks the JavaScript package as well. Prints a line for each
check, and the versions. It ends with 1 when a check fails.
"""
import argparse, importlib.metadata, json, pathlib, socket, subprocess, sys, threading, traceback

import openai
from langchain_openai import ChatOpenAI

from serving import Server

QUESTION = [{"role": "user", "content": "What is 3 plus 4?"}]


def cutting_proxy(url, n_bytes):
    """A server that passes on the first bytes of an answer and then closes the connection."""
    host, port = url.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            client, _ = listener.accept()
            upstream = socket.create_connection((host, int(port)))
            upstream.sendall(client.recv(1 << 16))
            passed = b""
            while len(passed) < n_bytes and (data := upstream.recv(n_bytes - len(passed))):
                passed += data
                client.sendall(data)
            client.close()
            upstream.close()

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def text_of(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def python_checks(server, name, has_reward):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    create = lambda **more: client.chat.completions.create(model=name, messages=QUESTION, max_tokens=40, **more)

    def chat():
        answer = create(seed=1)
        assert answer.choices[0].message.content.strip() and answer.usage.total_tokens > 0 and answer.system_fingerprint
        assert create(seed=1).choices[0].message.content == answer.choices[0].message.content
        seed = create().model_extra["gptkit"]["seed"]
        assert create(seed=seed).choices[0].message.content == create(seed=seed).choices[0].message.content

    def stream():
        whole = create(seed=2).choices[0].message.content
        assert text_of(create(seed=2, stream=True)) == whole
        last = list(create(seed=2, stream=True, stream_options={"include_usage": True}))[-1]
        assert last.choices == [] and last.usage.completion_tokens > 0

    def log_probs():
        answer = create(temperature=0, logprobs=True, top_logprobs=5)
        for token in answer.choices[0].logprobs.content:
            assert len(token.top_logprobs) == 5 and token.top_logprobs[0].logprob == token.logprob <= 0
            assert bytes(token.bytes).decode() == token.token

    def several():
        assert [choice.index for choice in create(n=3, seed=1).choices] == [0, 1, 2]
        streamed = {chunk.choices[0].index for chunk in create(n=3, seed=1, stream=True) if chunk.choices}
        assert streamed == {0, 1, 2}

    def stop():
        text = create(temperature=0).choices[0].message.content
        end = text.split()[1]
        cut = create(temperature=0, stop=[end])
        assert end not in cut.choices[0].message.content and cut.choices[0].finish_reason == "stop"

    def errors():
        for wrong, kind in [({"model": "gpt-9"}, openai.NotFoundError), ({"temperature": 9}, openai.BadRequestError)]:
            try:
                client.chat.completions.create(**{"model": name, "messages": QUESTION} | wrong)
                raise AssertionError(f"{wrong} was accepted")
            except kind as error:
                assert error.body["message"] and error.code and error.request_id, error

    def retries():
        patient = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=8)
        answers, lock = [], threading.Lock()

        def ask(seed):
            answer = patient.chat.completions.create(
                model=name, messages=QUESTION, max_tokens=100, seed=seed, extra_body={"ignore_eos": True})
            with lock:
                answers.append(answer)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(answers) == 12

    def cut_stream():
        cut = openai.OpenAI(base_url=f"{cutting_proxy(server.url, 900)}/v1", api_key="none", max_retries=0)
        try:
            text_of(cut.chat.completions.create(model=name, messages=QUESTION, stream=True))
            raise AssertionError("a cut stream was taken for a whole one")
        except (openai.APIError, __import__("httpx").HTTPError):
            pass

    def models():
        assert name in [model.id for model in client.models.list()]
        assert client.models.retrieve(name).id == name

    def completions():
        answer = client.completions.create(model=name, prompt="Once", max_tokens=4, logprobs=2, echo=True)
        assert answer.choices[0].text.startswith("Once") and answer.choices[0].logprobs.token_logprobs[0] is None

    def best_of():
        if has_reward:
            answer = create(seed=1, extra_body={"best_of": 8})
            assert len(answer.choices) == 1

    def langchain():
        model = ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", model=name, max_tokens=40, seed=1)
        whole = model.invoke("What is 3 plus 4?").content
        assert whole and "".join(chunk.content for chunk in model.stream("What is 3 plus 4?")) == whole

    return [chat, stream, log_probs, several, stop, errors, retries, cut_stream, models, completions, best_of, langchain]


NODE = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "none", maxRetries: 0 });
const model = process.argv[3], messages = [{ role: "user", content: "What is 3 plus 4?" }];
const options = { model, messages, max_tokens: 40, seed: 1 };
const whole = await client.chat.completions.create({ ...options, logprobs: true, top_logprobs: 2 });
let text = "";
for await (const chunk of await client.chat.completions.create({ ...options, stream: true }))
  text += chunk.choices[0]?.delta?.content ?? "";
if (text !== whole.choices[0].message.content) throw new Error("the stream differs");
if (whole.choices[0].logprobs.content[0].top_logprobs.length !== 2) throw new Error("log-probabilities are missing");
try {
  await client.chat.completions.create({ ...options, temperature: 9 });
  throw new Error("a wrong temperature was accepted");
} catch (error) {
  if (!(error instanceof OpenAI.BadRequestError) || error.param !== "temperature") throw error;
}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gptkit", default="target/release/gptkit")
    parser.add_argument("--model", required=True)
    parser.add_argument("--reward")
    parser.add_argument("--node", type=pathlib.Path)
    options = parser.parse_args()
    name = pathlib.Path(options.model).resolve().name
    arguments = ["--model", options.model, "--max-queue", 4, "--max-rows", 16]
    arguments += ["--reward", options.reward] if options.reward else []
    failed = 0
    with Server(options.gptkit, *arguments) as server:
        checks = python_checks(server, name, options.reward)
        if options.node:
            def javascript():
                script = options.node / "check.mjs"
                script.write_text(NODE)
                ran = subprocess.run(["node", script, server.url, name], capture_output=True, text=True)
                assert ran.returncode == 0, ran.stderr
            checks.append(javascript)
        for check in checks:
            try:
                check()
                print(f"{check.__name__:14} ok")
            except Exception:
                failed += 1
                print(f"{check.__name__:14} FAILED\n{traceback.format_exc()}")
    versions = [f"{package} {importlib.metadata.version(package)}" for package in ["openai", "langchain-openai"]]
    if options.node:
        package = json.loads((options.node / "node_modules/openai/package.json").read_text())
        versions.append(f"openai for JavaScript {package['version']}")
    print(", ".join(versions))
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
