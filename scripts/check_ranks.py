#!/usr/bin/env python3
"""Compares runs on several ranks, which a real MPI connects, with runs of one process.

    python3 scripts/check_ranks.py [--gptkit PATH] [--kills 10] [--speed] [--network]

Without --gptkit, it builds gptkit with `--features mpi`. It needs mpirun. Each stage runs with train.shards = 4 in one process,
on 2 ranks and on 4: weights, moments and records must be the same bytes, and so must the results of eval, score, rank and
win-rates. A run that is stopped on 2 ranks is resumed on 1 and
on 4. One rank is killed at random moments, the run is resumed on the other number of ranks, and comes to the same bytes.
--speed also measures GPT-2's 124M shape: one process with two threads beside two ranks on a core each.
--network measures the two ranks over TCP on a loopback of limited rate, beside what `gptkit plan` says of it. It needs root,
unshare, ip and tc.
"""
import argparse, json, os, pathlib, random, re, shutil, signal, subprocess, sys, tempfile, time

MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--mca", "odls_base_sigkill_timeout", "5"]
TINY = "--set model.n_layer=2 --set model.d_model=32 --set model.n_head=2 --set model.context=128".split()
PASSED = []


def check(what, passed, detail=""):
    PASSED.append(bool(passed))
    print(f"{'passed' if passed else 'FAILED'}  {what}{f': {detail}' if detail else ''}", flush=True)


def words(options, n, arguments):
    one_thread = ["-x", "RAYON_NUM_THREADS=1", "--bind-to", "none"]
    return ([*MPIRUN, *one_thread, "-n", str(n)] if n > 1 else []) + [str(options.gptkit), *map(str, arguments)]


def run(options, n, arguments, expected=0):
    done = subprocess.run(words(options, n, arguments), capture_output=True, text=True)
    if done.returncode != expected:
        sys.exit(f"{' '.join(words(options, n, arguments))}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stderr


def seen(folder):
    """Everything of a run but times."""
    def record(line):
        fields = json.loads(line)
        fields.pop("tokens_per_s")
        fields["figures"] = {name: x for name, x in fields.get("figures", {}).items() if not name.startswith("time/")}
        return fields
    newest = max((folder / "checkpoints").glob("step-*"))
    files = [*sorted(folder.glob("*.safetensors")), *sorted(newest.glob("*.safetensors"))]
    records = [record(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return records, {path.name + str(path.parent == newest): path.read_bytes() for path in files}


def processes(folder):
    """Processes that work on a run."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(str(folder).encode() in word for word in line) and b"mpirun" not in line[0]:
            found.append(int(entry.parent.name))
    return sorted(found)


def stages(options, folder):
    shards = ["--set", "train.shards=4"]
    base = ["--steps", "20", "--set", "train.batch_size=8", "--set", "train.micro_batch=2", *shards]
    run(options, 1, ["pretrain", "--config", "small", "--data", "world:200", "--steps", "30", *TINY, "--out", folder / "base"])
    run(options, 1, ["sft", "--init", folder / "base", "--data", "world:200", "--steps", "20", "--out", folder / "sft"])
    run(options, 1, ["train-rm", "--init", folder / "sft", "--data", "world:200", "--steps", "20", "--out", folder / "rm"])
    commands = {
        "pretrain, AdamW": ["pretrain", "--config", "small", "--data", "world:200", *TINY, *base, "--set", "train.optimizer=adamw"],
        "pretrain, Muon": ["pretrain", "--config", "small", "--data", "world:200", *TINY, *base],
        "sft": ["sft", "--init", folder / "base", "--data", "world:200", *base],
        "train-rm": ["train-rm", "--init", folder / "sft", "--data", "world:200", *base],
        "dpo": ["dpo", "--init", folder / "sft", "--data", "world:200", *base],
        "ppo": ["ppo", "--init", folder / "sft", "--reward", folder / "rm", "--prompts", "world:60", "--steps", "2", "--set",
                "train.batch_size=16", "--set", "policy.minibatches=2", "--set", "rollout.max_new_tokens=12", *shards],
    }
    for name, arguments in commands.items():
        found = {}
        for n in [1, 2, 4]:
            out = folder / f"{name.replace(', ', '-')}-{n}"
            run(options, n, [*arguments, "--out", out])
            found[n] = seen(out)
        check(f"{name}: 1, 2 and 4 ranks give the same bytes", found[1] == found[2] == found[4], f"{len(found[1][1])} files")


def readers(options, folder):
    """Evaluation, scoring, ranking and win rates of the models that `stages` trained."""
    base, sft, rm = folder / "base", folder / "sft", folder / "rm"
    text, records = folder / "text.txt", folder / "records.jsonl"
    text.write_text("".join(f"{i} is a number, and {i * i} is its square.\n" for i in range(300)))
    lines = [{"prompt": f"What is {i}?", "completions": [f"{i}.", "A number." * (1 + i % 3), "No."]} for i in range(70)]
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    world = ["--task", "world-classification", "--task", "arithmetic:2d+", "--limit", "60", "--shots", "0,2"]
    commands = {
        "eval": lambda n: ["eval", "--model", base, *world, "--task", f"text={text}", "--json", "--out", folder / f"eval-{n}"],
        "score": lambda n: ["score", "--model", rm, "--data", records, "--out", folder / f"score-{n}"],
        "rank": lambda n: ["rank", "--model", rm, "--data", records, "--out", folder / f"rank-{n}"],
        "win-rates": lambda n: ["win-rates", "--reference", sft, "--model", folder / "ppo-1", "--reward", rm, "--best-of", "2", "--prompts",
                                "world:24", "--judge", rm, "--max-new-tokens", "16", "--json"],
    }
    for name, arguments in commands.items():
        found = {}
        for n in [1, 2, 4]:
            done = subprocess.run(words(options, n, arguments(n)), capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name} on {n} ranks: exit {done.returncode}\n{done.stderr[-4000:]}")
            out = folder / f"{name}-{n}"
            files = sorted(out.rglob("*.jsonl")) if out.is_dir() else [out] if out.exists() else []
            found[n] = [path.read_bytes() for path in files] or [done.stdout.encode()]
        check(f"{name}: 1, 2 and 4 ranks give the same bytes", found[1] == found[2] == found[4], f"{sum(map(len, found[1]))} bytes")


def long_run(folder):
    return ["pretrain", "--config", "small", "--data", "world:200", *TINY, "--steps", "400", "--set", "train.batch_size=8", "--set",
            "train.micro_batch=2", "--set", "train.shards=4", "--set", "train.eval_every=20", "--set", "train.eval_windows=8", "--out",
            folder]


def begun(child, folder, steps):
    metrics = folder / "metrics.jsonl"
    while child.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < steps):
        time.sleep(0.005)


def interruptions(options, folder):
    whole = folder / "whole"
    run(options, 1, long_run(whole))
    expected = seen(whole)
    for n in [1, 4]:
        for how, sign in [("SIGUSR1 to mpirun", signal.SIGUSR1), ("SIGTERM to a rank", signal.SIGTERM)]:
            out = folder / f"stopped-{n}-{sign}"
            child = subprocess.Popen(words(options, 2, long_run(out)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            begun(child, out, 30)
            os.kill(child.pid if sign == signal.SIGUSR1 else processes(out)[-1], sign)
            said = child.communicate()[1]
            stopped = re.search(r"stopped after step (\d+) of 400", said)
            run(options, n, ["pretrain", "--resume", out])
            check(f"{how} on 2 ranks, resumed on {n}", stopped and seen(out) == expected,
                  stopped.group(0) if stopped else said[-300:])
    return expected


def kills(options, folder, expected):
    draws, same, quiet, slowest = random.Random(options.seed), 0, 0, 0.0
    for number in range(options.kills):
        out, n = folder / f"killed-{number}", draws.choice([2, 4])
        child = subprocess.Popen(words(options, n, long_run(out)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun(child, out, draws.randrange(1, 390))
        if number % 2:  # in the middle of a checkpoint
            while child.poll() is None and not list((out / "checkpoints").glob("*-tmp")):
                time.sleep(0.0005)
        alive = processes(out)
        if alive:
            os.kill(draws.choice(alive), signal.SIGKILL)
        killed = time.monotonic()
        child.wait()
        while processes(out) and time.monotonic() - killed < 120:
            time.sleep(0.05)
        slowest = max(slowest, time.monotonic() - killed)
        quiet += not processes(out)
        run(options, draws.choice([1, 2, 4]), ["pretrain", "--resume", out])
        left = [path for path in out.rglob("*-tmp")]
        same += seen(out) == expected and not left
        shutil.rmtree(out)
    check(f"kill -9 of one rank at {options.kills} random moments: the others end", quiet == options.kills, f"within {slowest:.1f} s")
    check("resumed on 1, 2 or 4 ranks, each comes to the same bytes", same == options.kills, f"{same} of {options.kills}")


def small_run(options, folder, out, micro_batch=1):
    """The command that trains GPT-2's 124M shape for a few steps."""
    text = folder / "text.txt"
    text.write_text("".join(f"{i} is a number, and {i * i} is its square.\n" for i in range(60000)))
    arguments = ["pretrain", "--config", "gpt2-small", "--data", text, "--steps", "6", "--set", "train.batch_size=4", "--set",
                 f"train.micro_batch={micro_batch}", "--set", "train.shards=2", "--set", "train.eval_windows=1", "--out", out]
    return [str(options.gptkit), *map(str, arguments)]


def rate(out):
    """Tokens per second of a step, the first one left out."""
    rates = [json.loads(line)["tokens_per_s"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    return sorted(rates[1:])[len(rates[1:]) // 2]


PINNED = [*MPIRUN, "-x", "RAYON_NUM_THREADS=1", "--bind-to", "core", "-n", "2"]


def speed(options, folder):
    def measured(name, start):
        """Tokens per second, and the memory of the largest process, MB."""
        out = folder / name
        child = subprocess.Popen([*start, *small_run(options, folder, out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        if status != 0:
            sys.exit(f"{name}: training failed")
        found = rate(out), usage.ru_maxrss / 1024
        shutil.rmtree(out)
        return found
    for turn in range(3):
        (one, one_peak), (two, two_peak) = measured(f"one-{turn}", []), measured(f"two-{turn}", PINNED)
        print(f"speed   one process {one:.0f} tokens/s ({one_peak:.0f} MB), two ranks {two:.0f} ({two_peak:.0f} MB each at most): "
              f"ratio {two / one:.3f}", flush=True)


def network(options, folder):
    """Each rank sends and receives 4 bytes of half of the 124,439,808 weights twice in a step; the loopback carries what both send."""
    tcp = ["--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo", "--mca", "oob_tcp_if_include", "lo"]
    alone = None
    for gigabits in [None, 20, 4, 2, 1]:
        out = folder / f"network-{gigabits}"
        limited = f"ip link set lo up && tc qdisc add dev lo root tbf rate {gigabits}gbit burst 4mb latency 400ms && exec \"$@\""
        start = [*PINNED, *tcp] if gigabits else PINNED
        words = [*start, *small_run(options, folder, out, micro_batch=2)]
        done = subprocess.run(["unshare", "-n", "bash", "-c", limited, "network", *words] if gigabits else words, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr[-4000:]}")
        share = re.search(r"spent ([0-9.]+)% of the time waiting", done.stderr)
        step = 4096 / rate(out)
        waits = float(share[1]) / 100 * step
        alone = alone or (step, waits)
        wire = f", on the wire {2 * 4 * 124_439_808 * 8 / (gigabits * 1e9):.2f} s" if gigabits else ""
        # The step's own time changes with the machine's speed; the time spent waiting less so.
        print(f"network {f'{gigabits} Gb/s' if gigabits else 'shared memory'}: a step {step:.2f} s ({step - alone[0]:+.2f})"
              f"{wire}, the first rank waits {waits:.2f} s ({waits - alone[1]:+.2f})", flush=True)
        shutil.rmtree(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gptkit", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--network", action="store_true")
    options = parser.parse_args()
    if not shutil.which("mpirun"):
        sys.exit("mpirun is not installed: apt-get install libopenmpi-dev openmpi-bin libclang-dev")
    if not options.gptkit:
        subprocess.run(["cargo", "build", "--release", "-p", "gptkit", "--features", "mpi"], check=True)
        options.gptkit = pathlib.Path("target/release/gptkit")
    options.gptkit = options.gptkit.resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        stages(options, folder)
        readers(options, folder)
        kills(options, folder, interruptions(options, folder))
        if options.speed:
            speed(options, folder)
        if options.network:
            network(options, folder)
    print(f"{sum(PASSED)} of {len(PASSED)} passed")
    return 0 if all(PASSED) else 1


if __name__ == "__main__":
    sys.exit(main())
