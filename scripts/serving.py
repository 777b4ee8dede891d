"""`gptkit serve` for the time of a block, for scripts that ask it."""
import re, subprocess, sys, threading


class Server:
    """A server that runs while its block does."""

    def __init__(self, gptkit, *arguments):
        command = [gptkit, "serve", "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"listening on (http://\S+);", line):
                self.url = found[1]
                break
        else:
            sys.exit("the server did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)
