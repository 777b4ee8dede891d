#!/usr/bin/env python3
"""Speed, memory and start of generation beside llama.cpp, by turns, on random weights of GPT-2's 124M shape.

    python3 scripts/bench_generate.py --build FOLDER           # builds llama.cpp's tools from its Python package's source
    python3 scripts/bench_generate.py --llama FOLDER --model DIR [--gptkit PATH] [--turns 3] [--types bf16 q8_0 q4_k]

DIR is a folder of a GPT-2 model with GPT-2's tokenizer, 124M parameters. `gptkit export` writes it as GGUF in bf16, and
llama-quantize makes the other types, all matrices of one type. Both programs read the same file. The table has tokens a
second of one row and of 16 rows of 128 tokens, of a prompt of 512 tokens, the seconds from start to the first token with
the file in the page cache and without it, and the most memory in use. Nothing else should run meanwhile. --build wants
cmake, ninja and a C++ compiler.
"""
import argparse, json, os, pathlib, re, statistics, subprocess, sys, tempfile, time

TOOLS = ["llama-bench", "llama-batched-bench", "llama-quantize", "llama-completion", "llama-server"]
PURE = {"q8_0": "Q8_0", "q6_k": "Q6_K", "q5_k": "Q5_K_S", "q4_k": "Q4_K_S"}


def run(*words, **more):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **more)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def build(folder):
    """Builds the tools into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    run(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation",
        "llama-cpp-python", "-d", folder)
    archive = next(folder.glob("llama_cpp_python-*.tar.gz"))
    run("tar", "xf", archive, "-C", folder)
    source = next(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    run("cmake", "-S", source, "-B", folder / "b", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
        "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_UI=OFF")
    run("ninja", "-C", folder / "b", *TOOLS)
    print(folder / "b" / "bin")


def gptkit_rates(options, kind):
    flags = ["--dtype", "bf16"] if kind == "bf16" else ["--quantize", kind]
    base = [options.gptkit, "bench", "--config", "gpt2-small", "--json", *flags]

    def case(name, *more):
        lines = [json.loads(line) for line in run(*base, "--case", name, *more).splitlines()]
        return next(line["tokens_per_s"] for line in lines if line.get("case") == name)
    return {"1 row": case("decode", "--seq", "128"), "16 rows": case("decode", "--batch", "16", "--seq", "128"),
            "prompt": case("prompt", "--batch", "1", "--seq", "512")}


def llama_rates(options, file):
    threads = str(os.cpu_count())
    found = json.loads(run(options.llama / "llama-bench", "-m", file, "-p", "512", "-n", "128", "-t", threads, "-r", "2", "-o", "json"))
    rate = {("prompt" if one["n_prompt"] else "1 row"): one["avg_ts"] for one in found}
    out = run(options.llama / "llama-batched-bench", "-m", file, "-c", "4096", "-npp", "4", "-ntg", "128", "-npl", "16", "-t", threads)
    row = [cell.strip() for cell in re.findall(r"^\|\s+4 \|.*$", out, re.M)[0].strip("|").split("|")]
    return {**rate, "16 rows": float(row[7])}


def start(words, file, cold):
    """Seconds, and the most memory in use in MB."""
    with open(file, "rb") as held:
        os.posix_fadvise(held.fileno(), 0, 0, os.POSIX_FADV_DONTNEED if cold else os.POSIX_FADV_WILLNEED)
        if not cold:
            while held.read(1 << 24):
                pass
    begun = time.perf_counter()
    child = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{words}: status {status}")
    return time.perf_counter() - begun, used.ru_maxrss / 1024


def starts(words, file, tokens):
    cold, memory = start(words("1"), file, True)
    warm, _ = start(words("1"), file, False)
    return {"first token, cold (s)": cold, "first token (s)": warm, "memory, 1 token (MB)": memory,
            f"memory, {tokens} tokens (MB)": start(words(str(tokens)), file, False)[1]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path)
    parser.add_argument("--llama", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--gptkit", default="target/release/gptkit")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--types", nargs="+", default=["bf16", "q8_0", "q4_k"])
    options = parser.parse_args()
    if options.build:
        return build(options.build)
    if not (options.llama and options.model):
        parser.error("--llama and --model are missing (or --build)")
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    print(f"{cpu and cpu.group(1)} · {os.cpu_count()} cores · {run(options.gptkit, '--version').strip()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        files = {"bf16": pathlib.Path(folder) / "bf16.gguf"}
        run(options.gptkit, "export", "--model", options.model, "--format", "gguf", "--quantize", "bf16", "--out", files["bf16"])
        for kind in options.types:
            if kind != "bf16":
                files[kind] = pathlib.Path(folder) / f"{kind}.gguf"
                run(options.llama / "llama-quantize", "--pure", files["bf16"], files[kind], PURE[kind])
            ours, theirs = [], []
            for _ in range(options.turns):
                sample = lambda n: [options.gptkit, "sample", "--model", files[kind], "--prompt", "a", "--max-new-tokens", n]
                other = lambda n: [options.llama / "llama-completion", "-m", files[kind], "-p", "a", "-n", n, "-t", os.cpu_count(),
                                   "-no-cnv", "--no-warmup", "-c", "512", "--ignore-eos"]
                ours.append({**gptkit_rates(options, kind), **starts(sample, files[kind], 128)})
                theirs.append({**llama_rates(options, files[kind]), **starts(other, files[kind], 128)})
            for name in ours[0]:
                a, b = ([turn[name] for turn in turns] for turns in (ours, theirs))
                ratios = [x / y for x, y in zip(a, b)]
                print(f"{kind:5} {name:26} gptkit {statistics.median(a):8.2f}  llama.cpp {statistics.median(b):8.2f}  "
                      f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


main()
