#!/usr/bin/env python3
"""gptkit and Python's huggingface_hub on one cache and one hub, in both directions.

    python3 scripts/check_hub.py --model DIR [--gptkit target/release/gptkit]

DIR is a model folder. The script serves it as `o/m` from a hub of its own on two free ports, the second for large files, and
needs the package huggingface_hub. Each direction downloads with one program and reads with the other without a network;
then gptkit pushes the folder, and huggingface_hub downloads it again. Prints a line for each check; it ends with 1 when one
fails.
"""
import argparse, base64, hashlib, http.server, json, os, pathlib, subprocess, sys, tempfile, threading, urllib.parse

COMMIT = "1" * 40
KEPT = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


class Hub:
    """A hub with commits of one or more models: a folder of bytes by path."""

    def __init__(self, files):
        self.commits = {"o/m": {COMMIT: files}}
        self.branches = {("o/m", "main"): COMMIT}
        self.uploaded = {}
        self.requests = []
        self.urls = [self.start(second) for second in (False, True)]

    def start(self, second):
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do(self):
                hub.requests.append((second, self.command, self.path, self.headers.get("Authorization")))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, headers, answer = hub.answer(second, self.command, urllib.parse.unquote(self.path), self.headers, body)
                self.send_response(status)
                for name, value in {"Content-Length": len(answer), **headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_HEAD = do_POST = do_PUT = do

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    def answer(self, second, method, path, headers, body):
        path = path.split("?")[0].lstrip("/")
        if second:
            return self.store(method, path, headers, body)
        if path == "api/repos/create":
            return as_json({"url": "x"})
        if path.endswith("/info/lfs/objects/batch"):
            upload = lambda o: {**o, "actions": {"upload": {"href": f"{self.urls[1]}/put/{o['oid']}"}}}
            return as_json({"transfer": "basic", "objects": [upload(o) for o in json.loads(body)["objects"]]})
        if path.startswith("api/models/"):
            owner, name, what, *rest = path.removeprefix("api/models/").split("/")
            return self.api(f"{owner}/{name}", what, "/".join(rest), body)
        repository, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        commit = self.branches.get((repository, revision), revision)
        data = self.commits.get(repository, {}).get(commit, {}).get(file)
        if data is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        known = {"X-Repo-Commit": commit}
        if not is_large(file):
            return 200, {**known, "ETag": f'"{git_hash(data)}"'}, data
        known |= {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": len(data), "ETag": f'"{sha256(data)}"'}
        return 302, {**known, "Location": f"{self.urls[1]}/{repository}/{commit}/{file}"}, b""

    def api(self, repository, what, revision, body):
        if what == "preupload":
            mode = lambda f: {"path": f["path"], "uploadMode": "lfs" if is_large(f["path"]) else "regular", "shouldIgnore": False}
            return as_json({"files": [mode(file) for file in json.loads(body)["files"]]})
        if what == "commit":
            files = {}
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.uploaded[value["oid"]]
            commit = git_hash(body)
            self.commits.setdefault(repository, {})[commit] = files
            self.branches[repository, revision] = commit
            return as_json({"commitUrl": f"{self.urls[0]}/{repository}/commit/{commit}", "commitOid": commit})
        commit = self.branches.get((repository, revision), revision)
        files = self.commits.get(repository, {}).get(commit)
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound" if repository in self.commits else "RepoNotFound"}, b""
        if what == "revision":
            return as_json({"id": repository, "sha": commit, "siblings": [{"rfilename": path} for path in files]})
        return as_json([entry(path, data) for path, data in files.items()])

    def store(self, method, path, headers, body):
        if method == "PUT":
            self.uploaded[sha256(body)] = body
            return 200, {"ETag": '"x"'}, b""
        owner, name, commit, file = path.split("/", 3)
        data = self.commits[f"{owner}/{name}"][commit][file]
        if span := headers.get("Range"):
            first = int(span.removeprefix("bytes=").split("-")[0])
            return 206, {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}, data[first:]
        return 200, {}, data


def is_large(path):
    return path.endswith(".safetensors")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(path, data):
    large = {"lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 134}} if is_large(path) else {}
    return {"type": "file", "path": path, "size": len(data), "oid": git_hash(data), **large}


def as_json(value):
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--gptkit", default="target/release/gptkit")
    args = parser.parse_args()
    files = {name: (args.model / name).read_bytes() for name in KEPT if (args.model / name).exists()}
    hub = Hub(files)
    failed = 0

    def check(what, ok, seen=""):
        nonlocal failed
        failed += not ok
        print(f"{'ok' if ok else 'FAILED'}  {what}{'' if ok else f': {seen}'}")

    def run(home, words, offline=False):
        environment = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": hub.urls[0], "HF_TOKEN": "hf_secret"}
        environment["NO_PROXY"] = "127.0.0.1"
        environment["HF_HUB_OFFLINE"] = "1" if offline else "0"
        ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
        return ran.returncode, ran.stdout.strip(), ran.stderr.strip()

    def python(home, name, offline=False, patterns="None"):
        code = (
            "import huggingface_hub as h;"
            f"print(h.snapshot_download({name!r}, local_files_only={offline}, allow_patterns={patterns}))"
        )
        return run(home, [sys.executable, "-c", code], offline)

    def gptkit(home, *words, offline=False):
        return run(home, [args.gptkit, *words], offline)

    def same(folder):
        return all((pathlib.Path(folder) / name).read_bytes() == data for name, data in files.items())

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        code, folder, said = python(one, "o/m")
        check("huggingface_hub downloads from the hub of this script", code == 0 and same(folder), said)
        hub.requests.clear()
        code, found, said = gptkit(one, "pull", "o/m", "--offline")
        check("gptkit finds huggingface_hub's files offline", code == 0 and found == folder, said or found)
        code, found, said = gptkit(one, "sample", "--model", "hf:o/m", "--max-new-tokens", "2", offline=True)
        check("gptkit samples from them with HF_HUB_OFFLINE", code == 0 and not hub.requests, said)
        code, found, said = gptkit(one, "pull", "o/m")
        check("gptkit downloads none of them again", code == 0 and not any(second for second, *_ in hub.requests), said)

        code, folder, said = gptkit(two, "pull", "o/m")
        check("gptkit downloads the model", code == 0 and same(folder), said)
        tokens = {token for second, *_, token in hub.requests if second}
        check("gptkit sends the token to the hub alone", tokens == {None}, tokens)
        code, found, said = python(two, "o/m", offline=True)
        check("huggingface_hub finds gptkit's files offline", code == 0 and found == folder, said or found)
        hub.requests.clear()
        code, found, said = python(two, "o/m", patterns=list(files))
        loaded = [path for second, method, path, _ in hub.requests if second or (method == "GET" and "/resolve/" in path)]
        check("huggingface_hub downloads none of them again", code == 0 and found == folder and not loaded, said or loaded)

        code, _, said = gptkit(two, "push", str(args.model), "o/pushed", "--license", "mit")
        check("gptkit pushes the folder", code == 0, said)
        code, folder, said = python(one, "o/pushed")
        check("huggingface_hub downloads what gptkit pushed", code == 0 and same(folder), said)
        check("it has a model card", code == 0 and (pathlib.Path(folder) / "README.md").exists(), folder)
        code = "import huggingface_hub as h, sys; c = h.ModelCard.load(sys.argv[1]); c.data; print(c.data.license)"
        code, found, said = run(one, [sys.executable, "-c", code, folder + "/README.md"])
        check("huggingface_hub reads the card", code == 0 and found == "mit", said or found)

    import huggingface_hub
    print(f"huggingface_hub {huggingface_hub.__version__}, {gptkit('/tmp', '--version')[1]}")
    sys.exit(1 if failed else 0)


main()
