"""The side of `cargo xtask versus` that is not ours: PyTorch and OpenCV, answering one JSON line after the other.

A request names what to do (`time`, `check`, `forget`) and the problem; operands are made at its first request
and kept until they are to be forgotten. The first line printed says which versions answer. Activations and filters are
channels_last_3d.
"""

import argparse
import json
import sys
import time


def best(run, request):
    clock = time.process_time if request.get("processor") else time.perf_counter
    least, runs, begin = float("inf"), 0, time.perf_counter()
    while runs < max(request["least"], 1) or time.perf_counter() - begin < request["seconds"]:
        start = clock()
        run()
        least = min(least, clock() - start)
        runs += 1
    return {"ms": 1e3 * least, "runs": runs}


class Peer:
    """One problem in the forms in which PyTorch can solve it; the fastest counts."""

    def __init__(self, solution):
        self.forms = solution if isinstance(solution, dict) else {"": solution}
        for run in self.forms.values():
            run()

    def time(self, request):
        took = {form: best(run, request) for form, run in self.forms.items()}
        form = min(took, key=lambda f: took[f]["ms"])
        # A form that is clearly behind is not asked again.
        self.forms = {f: run for f, run in self.forms.items() if took[f]["ms"] < 1.2 * took[form]["ms"]}
        return took[form] | ({"form": form} if form else {})

    def check(self, request):
        """What else there is to say: errors of the result, or MiB that one run needs beside its operands."""
        run = next(iter(self.forms.values()))
        if hasattr(run, "check"):
            return run.check()
        return extra_memory(run) if hasattr(run, "memory") else {}


def extra_memory(run):
    status = lambda key: int(next(l for l in open("/proc/self/status") if l.startswith(key)).split()[1])
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew
    except OSError:
        return {}
    before = status("VmRSS")
    run()
    return {"extra_mib": (status("VmHWM") - before) / 1024}


def versions():
    import torch

    found = {"pytorch": torch.__version__}
    try:
        import cv2

        cv2.optflow.createOptFlow_DualTVL1()
        found["opencv"] = cv2.__version__
    except (ImportError, AttributeError):
        pass  # its cases say so
    return found


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--threads", type=int, default=2, help="threads (default 2)")
    a = a.parse_args()
    try:
        import problems
        import torch
    except ImportError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    torch.set_num_threads(a.threads)
    print(json.dumps(versions()), flush=True)
    peers = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "forget":
                peers.clear()
                answer = {}
            else:
                problem = request["problem"]
                key = json.dumps(problem, sort_keys=True)
                with torch.no_grad():
                    if key not in peers:
                        torch.manual_seed(0)
                        peers[key] = Peer(getattr(problems, problem["op"])(problem | {"threads": a.threads}))
                    answer = getattr(peers[key], request["do"])(request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
