#!/usr/bin/env python3
"""Check every way to install gptkit: wheel, crates, release archive, container image.

    python3 scripts/check_install.py [--only PART,…] [--wheel FILE] [--work FOLDER]

Parts, and what each needs beside Python:
  wheel    scripts/wheel.sh builds it (Rust, a C compiler, PyPI); its tag, size, man pages, completions and licenses
  venv     pip installs it without an index into a fresh environment; with a PATH without Rust, lineage --dry-run, a small
           pretrain, sample and doctor run, and man finds the pages; uvx runs it (uv from PyPI)
  glibc    the newest symbol versions of the binary are glibc 2.17 or older (binutils); it starts and trains in Debian
           releases that debootstrap makes (root, Debian's packages)
  crates   cargo package of every crate that is published, compiled from the packages alone
  archive  dist build of this machine's target (cargo-dist from PyPI); checksums; the binary of the archive trains
  image    scripts/image.sh on a base that debootstrap makes (root, buildah, podman, runc): not root, read-only file system,
           health check, an answer over HTTP, the memory limit as doctor sees it

Without --only, all parts run; a part whose tools are missing is reported as not run. Each part takes minutes where it compiles.
--wheel uses a wheel that is there. The table at the end has a line for each check; the exit code is 1 when one failed.
"""
import argparse
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TOOLS = TARGET / "tools/bin"
DIST = "astral-dev-toolchain-cargo-dist==0.33.0"
OLDEST_GLIBC = (2, 17)
RELEASES = ["bullseye", "bookworm"]
BASE = "bookworm"
TINY = ["--steps", "20", "--set", "model.n_layer=2", "--set", "model.d_model=32", "--set", "model.n_head=2"]
KEY = "key-of-the-check"
rows = []


def row(part, check, good, detail=""):
    """Adds a line to the table: passed, failed, or not run (None)."""
    verdict = {True: "pass", False: "FAIL", None: "not run"}[good]
    rows.append((part, check, verdict, str(detail)))
    print(f"{verdict:<8} {part:<8} {check:<46} {detail}", flush=True)


def run(words, **options):
    """Runs a command; returns its exit code and all that it printed."""
    options = {"stdin": subprocess.DEVNULL, "cwd": ROOT, **options}
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    return done.returncode, done.stdout


def last(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:110] if lines else ""


def missing(part, *programs):
    """Reports the first program that a part lacks."""
    lacking = next((name for name in programs if shutil.which(name) is None), None)
    if lacking:
        row(part, "tools", None, f"{lacking} is missing")
    elif "debootstrap" in programs and os.geteuid() != 0:
        lacking = "root"
        row(part, "tools", None, "needs root")
    return lacking


def pip(*packages):
    if not TOOLS.exists():
        run([sys.executable, "-m", "venv", TOOLS.parent])
    code, text = run([TOOLS / "pip", "install", "-q", *packages])
    if code != 0:
        sys.exit(f"check_install.py: pip install {' '.join(packages)} failed: {last(text)}")


def trains(part, check, words, folder, **options):
    """Trains a tiny model with the command `words`, and samples from it."""
    code, text = run([*words, "pretrain", *TINY, "--out", f"{folder}/tiny"], **options)
    row(part, check, code == 0 and "saved" in text, next((line for line in text.splitlines() if "saved" in line), last(text)))
    code, text = run([*words, "sample", "--model", f"{folder}/tiny", "--max-new-tokens", "8"], **options)
    row(part, "sample", code == 0, last(text))


def built_wheel(work):
    begun = time.time()
    out = work / "wheels"
    code, text = run([ROOT / "scripts/wheel.sh", out])
    wheels = list(out.glob("*.whl"))
    row("wheel", "scripts/wheel.sh", code == 0 and len(wheels) == 1, f"{time.time() - begun:.0f} s" if code == 0 else last(text))
    return wheels[0] if wheels else None


def check_wheel(wheel):
    row("wheel", "tag", "manylinux_2_17" in wheel.name and "py3-none" in wheel.name, wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        binary = next(info for info in archive.infolist() if info.filename.endswith("/scripts/gptkit"))
        row("wheel", "size", True, f"{wheel.stat().st_size / 1e6:.1f} MB, binary {binary.file_size / 1e6:.1f} MB")
        pages = [name for name in names if "/data/share/man/man1/gptkit" in name]
        row("wheel", "man pages", len(pages) > 40, len(pages))
        shells = ["bash-completion/completions/gptkit", "zsh/site-functions/_gptkit", "fish/vendor_completions.d/gptkit.fish"]
        row("wheel", "completions", all(any(name.endswith(shell) for name in names) for shell in shells), ", ".join(shells))
        licenses = [name for name in names if "/licenses/" in name]
        row("wheel", "licenses", len(licenses) == 2, len(licenses))


def check_venv(wheel, work):
    venv = work / "venv"
    shutil.rmtree(venv, ignore_errors=True)
    run([sys.executable, "-m", "venv", venv])
    code, text = run([venv / "bin/pip", "install", "--no-index", wheel])
    row("venv", "pip install, without an index", code == 0, last(text))
    folder = work / "fresh"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    bare = {"PATH": f"{venv}/bin:/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"}
    options = {"env": bare, "cwd": folder}
    row("venv", "no Rust on PATH", all(shutil.which(name, path=bare["PATH"]) is None for name in ("cargo", "rustc")), bare["PATH"])
    code, text = run(["gptkit", "--version"], **options)
    row("venv", "gptkit --version", code == 0, last(text))
    code, text = run(["gptkit", "lineage", "--dry-run"], **options)
    row("venv", "gptkit lineage --dry-run", code == 0 and "ppo" in text, f"{len(text.splitlines())} lines")
    trains("venv", "gptkit pretrain", ["gptkit"], folder, **options)
    code, text = run(["gptkit", "doctor", "--offline"], **options)
    row("venv", "gptkit doctor --offline", code == 0, f"{len(text.splitlines())} checks")
    code, text = run(["man", "--path", "--manpath", venv / "share/man", "-w", "gptkit-pretrain"], **options)
    row("venv", "man gptkit-pretrain", code == 0 and "gptkit-pretrain.1" in text, last(text))
    pip("uv")
    uv = {**bare, "PATH": f"{TOOLS}:/usr/bin:/bin"}
    code, text = run([TOOLS / "uvx", "--offline", "--from", wheel, "gptkit", "--version"], env=uv, cwd=folder)
    row("venv", "uvx gptkit --version", code == 0 and text.split()[-2:-1] == ["gptkit"], last(text))


def unpacked(wheel, work):
    """The binary of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/scripts/gptkit"))
        binary = work / "gptkit"
        binary.write_bytes(archive.read(name))
    binary.chmod(0o755)
    return binary


def root_of(release, work):
    """A minimal Debian of that release; none where debootstrap fails."""
    folder = work / "roots" / release
    if not (folder / "etc/debian_version").exists() or not (folder / "usr/bin/id").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        code, text = run(["debootstrap", "--variant=minbase", release, folder])
        if code != 0:
            row("glibc", f"debootstrap {release}", None, last(text))
            return None
    return folder


def check_glibc(binary, work):
    code, text = run(["objdump", "-T", binary])
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([\d.]+)", text)}
    newest = max(versions, default=(0,))
    row("glibc", f"newest symbol version at most {'.'.join(map(str, OLDEST_GLIBC))}", code == 0 and (2,) < newest[:2] <= OLDEST_GLIBC,
        "GLIBC_" + ".".join(map(str, newest)))
    if missing("glibc", "debootstrap"):
        return
    for release in RELEASES:
        root = root_of(release, work)
        if root is None:
            continue
        shutil.copy(binary, root / "usr/local/bin/gptkit")
        glibc = run(["chroot", root, "ldd", "--version"])[1].splitlines()[0].split()[-1]
        trains("glibc", f"pretrain on Debian {release}, glibc {glibc}", ["chroot", root, "gptkit"], tempfile.mktemp(prefix="/tmp/"))


def check_crates():
    words = ["cargo", "package", "--workspace", "--exclude", "gptkit-testing", "--allow-dirty", "--locked"]
    begun = time.time()
    code, text = run(words)
    warnings = [line for line in text.splitlines() if line.startswith("warning") and "ignoring test" not in line]
    n = len(re.findall(r"^\s*Packaged ", text, re.MULTILINE))
    row("crates", "cargo package, compiled", code == 0, f"{n} crates, {time.time() - begun:.0f} s" if code == 0 else last(text))
    row("crates", "warnings", not warnings, "; ".join(warnings)[:200] or "none")


def check_archive(work):
    pip(DIST)
    host = re.search(r"^host: (.*)$", run(["rustc", "-vV"])[1], re.MULTILINE)[1]
    if not (ROOT / "gptkit.data").exists():
        code, text = run(["cargo", "build", "--profile", "dist", "-p", "gptkit"])
        run([ROOT / "scripts/share.sh", TARGET / "dist/gptkit"])
    begun = time.time()
    code, text = run([TOOLS / "dist", "build", "--artifacts=local", f"--target={host}"])
    folder = TARGET / "distrib"
    archive = folder / f"gptkit-{host}.tar.gz"
    row("archive", f"dist build for {host}", code == 0 and archive.exists(), f"{time.time() - begun:.0f} s" if code == 0 else last(text))
    if not archive.exists():
        return
    stated = pathlib.Path(f"{archive}.sha256").read_text().split()[0]
    row("archive", "checksum", stated == hashlib.sha256(archive.read_bytes()).hexdigest(), f"{archive.stat().st_size / 1e6:.1f} MB")
    out = work / "archive"
    shutil.rmtree(out, ignore_errors=True)
    with tarfile.open(archive) as files:
        files.extractall(out, filter="data")
    inside = next(out.iterdir())
    names = {path.name for path in inside.rglob("*")}
    wanted = {"gptkit", "LICENSE-MIT", "LICENSE-APACHE", "README.md", "gptkit-pretrain.1", "_gptkit", "gptkit.fish"}
    row("archive", "contents", wanted <= names, ", ".join(sorted(wanted - names)) or "complete")
    trains("archive", "pretrain", [inside / "gptkit"], work / "archive")


def wait_until(ready, seconds):
    end = time.time() + seconds
    while time.time() < end:
        if ready():
            return True
        time.sleep(0.5)
    return False


def check_image(binary, work):
    if missing("image", "debootstrap", "buildah", "podman", "runc"):
        return
    base = root_of(BASE, work)
    if base is None:
        return
    (base / "usr/local/bin/gptkit").unlink(missing_ok=True)
    store = ["--root", work / "containers", "--runroot", work / "containers-run"]
    packed = work / "base.tar"
    run(["tar", "-C", base, "-cf", packed, "."])
    code, text = run(["podman", *store, "import", packed, "localhost/debian:base"])
    packed.unlink(missing_ok=True)
    builder = " ".join(map(str, ["buildah", *store, "build", "--format", "docker", "--isolation", "chroot", "--pull-never"]))
    name = "localhost/gptkit:check"
    code, text = run([ROOT / "scripts/image.sh", binary, name, "--build-arg", "BASE=localhost/debian:base"],
                     env={**os.environ, "BUILDER": builder})
    row("image", "scripts/image.sh", code == 0, last(text))
    if code != 0:
        return
    made = json.loads(run(["podman", *store, "image", "inspect", name])[1])[0]
    row("image", "user, command, health check", made["User"] == "10001:10001" and "serve" in made["Config"]["Cmd"] and "Healthcheck" in made,
        f"{made['User']}, {' '.join(made['Config']['Cmd'][:3])} …, {made['Size'] / 1e6:.0f} MB with the base")
    model = work / "model"
    shutil.rmtree(model, ignore_errors=True)
    run([binary, "pretrain", *TINY, "--out", model])
    keys = work / "keys"
    keys.write_text(KEY + "\n")
    for path in [keys, model, *model.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    limits = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:4096", "--memory", "1g", "--read-only"]
    podman = ["podman", "--runtime", shutil.which("runc"), *store]
    code, text = run([*podman, "run", "-d", "--name", "check", *limits, "-v", f"{model}:/model:ro", "-v", f"{keys}:/run/secrets/gptkit-keys:ro",
                      "-p", "127.0.0.1:18000:8000", name])
    try:
        row("image", "starts with a read-only file system", code == 0, last(text)[:20])
        healthy = lambda: run([*podman, "healthcheck", "run", "check"])[0] == 0
        good = wait_until(healthy, 60)
        row("image", "health check", good, "" if good else last(run([*podman, "logs", "check"])[1]))
        code, text = run([*podman, "exec", "check", "id", "-u"])
        row("image", "does not run as root", last(text) == "10001", last(text))
        request = urllib.request.Request("http://127.0.0.1:18000/v1/completions", json.dumps({"prompt": "a", "max_tokens": 4}).encode(),
                                         {"content-type": "application/json", "authorization": f"Bearer {KEY}"})
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            answer = json.load(opener.open(request, timeout=30))
            row("image", "answers over HTTP", len(answer["choices"]) == 1, answer["choices"][0]["text"].strip()[:40])
        except OSError as e:
            row("image", "answers over HTTP", False, e)
        code, text = run([*podman, "exec", "check", "gptkit", "doctor", "--offline", "--json"])
        memory = next((json.loads(line)["found"] for line in text.splitlines() if '"memory"' in line), last(text))
        row("image", "doctor sees the memory limit", "limit of the container" in memory, memory)
        code, text = run([*podman, "stop", "-t", "10", "check"])
        state = last(run([*podman, "inspect", "-f", "{{.State.ExitCode}}", "check"])[1])
        row("image", "SIGTERM ends the server", state == "0", f"exit code {state}")
    finally:
        run([*podman, "rm", "-f", "check"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["wheel", "venv", "glibc", "crates", "archive", "image"]
    parser.add_argument("--only", default=",".join(parts), help="parts, with commas")
    parser.add_argument("--wheel", type=pathlib.Path, help="a wheel that is there")
    parser.add_argument("--work", type=pathlib.Path, default=TARGET / "check-install", help="folder to work in")
    given = parser.parse_args()
    wanted = given.only.split(",")
    if not set(wanted) <= set(parts):
        parser.error(f"--only takes {', '.join(parts)}")
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    wheel = given.wheel and given.wheel.resolve()
    if wheel is None and set(wanted) & {"wheel", "venv", "glibc", "image"}:
        wheel = built_wheel(work)
    if wheel:
        if "wheel" in wanted:
            check_wheel(wheel)
        if "venv" in wanted:
            check_venv(wheel, work)
        binary = unpacked(wheel, work)
        if "glibc" in wanted:
            check_glibc(binary, work)
        if "image" in wanted:
            check_image(binary, work)
    if "crates" in wanted:
        check_crates()
    if "archive" in wanted:
        check_archive(work)
    print("\n| part | check | result | detail |\n| --- | --- | --- | --- |")
    for line in rows:
        print(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |")
    failed = sum(verdict == "FAIL" for _, _, verdict, _ in rows)
    print(f"\n{len(rows)} checks, {failed} failed, {sum(verdict == 'not run' for _, _, verdict, _ in rows)} not run")
    sys.exit(failed > 0)


main()
